//! The objects of a resource, in the order of their keys, in blocks that snapshots share.
//!
//! A snapshot costs one pointer a block; a write copies at most the block that it changes. So a list of
//! everything holds the store's lock for microseconds, and is made up and sent without it.

use std::sync::Arc;

use super::Stored;

/// A block is split when it grows beyond this.
const FULL: usize = 512;
/// A block that shrinks below this is joined with the next one.
const SPARSE: usize = 64;

/// Sorted objects. Clones are snapshots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    /// None is empty.
    blocks: Vec<Arc<Vec<Arc<Stored>>>>,
    len: usize,
}

impl Objects {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block that holds `key`, or would.
    fn block(&self, key: &str) -> usize {
        let after = self
            .blocks
            .partition_point(|b| b.first().is_some_and(|o| *o.key <= *key));
        after.saturating_sub(1)
    }

    /// Position of the first object at or after `key`: its block, and its place there.
    fn seek(&self, key: &str) -> (usize, usize) {
        let at = self.block(key);
        match self.blocks.get(at) {
            Some(block) => {
                let place = block.partition_point(|o| *o.key < *key);
                if place == block.len() {
                    (at + 1, 0)
                } else {
                    (at, place)
                }
            }
            None => (0, 0),
        }
    }

    /// One object.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Stored>> {
        let (block, place) = self.seek(key);
        self.blocks
            .get(block)?
            .get(place)
            .filter(|found| *found.key == *key)
    }

    /// Puts an object at its key.
    pub(crate) fn insert(&mut self, object: Arc<Stored>) {
        if self.blocks.is_empty() {
            self.blocks.push(Arc::default());
        }
        let at = self.block(&object.key);
        let block = Arc::make_mut(&mut self.blocks[at]);
        let place = block.partition_point(|o| o.key < object.key);
        match block.get_mut(place) {
            Some(found) if found.key == object.key => {
                *found = object;
                return;
            }
            _ => block.insert(place, object),
        }
        self.len += 1;
        if block.len() > FULL {
            // What comes in order fills blocks, and does not leave them half full.
            let keep = if place + 1 == block.len() { FULL } else { FULL / 2 };
            let rest = block.split_off(keep);
            self.blocks.insert(at + 1, Arc::new(rest));
        }
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, key: &str) {
        let (at, place) = self.seek(key);
        let holds = |o: &Arc<Stored>| *o.key == *key;
        if !self.blocks.get(at).and_then(|b| b.get(place)).is_some_and(holds) {
            return;
        }
        let block = Arc::make_mut(&mut self.blocks[at]);
        block.remove(place);
        self.len -= 1;
        let left = block.len();
        if left == 0 {
            self.blocks.remove(at);
        } else if left < SPARSE && self.blocks.get(at + 1).is_some_and(|n| n.len() + left <= FULL) {
            let next = self.blocks.remove(at + 1);
            Arc::make_mut(&mut self.blocks[at]).extend(next.iter().cloned());
        }
    }

    /// The objects from `key` on, in order.
    pub(crate) fn from(&self, key: &str) -> impl Iterator<Item = &Arc<Stored>> + use<'_> {
        let (block, place) = self.seek(key);
        let first = self.blocks.get(block).map(|b| &b[place..]).unwrap_or_default();
        let rest = self.blocks.get(block + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flat_map(|b| b.iter()))
    }

    /// How many stand before `key`.
    fn rank(&self, key: &str) -> usize {
        let (block, place) = self.seek(key);
        self.blocks.iter().take(block).map(|b| b.len()).sum::<usize>() + place
    }

    /// Where the objects of a namespace begin, and the key that they all come before. All, for none.
    fn bounds(namespace: &str) -> (String, Option<String>) {
        if namespace.is_empty() {
            return (String::new(), None);
        }
        // '0' follows '/'.
        (format!("{namespace}/"), Some(format!("{namespace}0")))
    }

    /// The objects of one namespace, or all, from `key` on.
    pub(crate) fn within<'a>(
        &'a self,
        namespace: &str,
        key: &str,
    ) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let (begin, end) = Self::bounds(namespace);
        let begin = if key > begin.as_str() { key } else { &begin };
        self.from(begin)
            .take_while(move |o| end.as_ref().is_none_or(|end| *o.key < **end))
    }

    /// How many objects of one namespace, or of all, stand from `key` on.
    pub(crate) fn count_within(&self, namespace: &str, key: &str) -> usize {
        let (begin, end) = Self::bounds(namespace);
        let begin = if key > begin.as_str() { key } else { &begin };
        let end = end.map_or(self.len, |end| self.rank(&end));
        end.saturating_sub(self.rank(begin))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, rv: u64) -> Arc<Stored> {
        let value = json!({"metadata": {"namespace": namespace, "name": name}});
        Arc::new(Stored::from_value(value, rv).unwrap())
    }

    fn keys<'a>(objects: impl Iterator<Item = &'a Arc<Stored>>) -> Vec<(String, u64)> {
        objects.map(|o| (o.key.to_string(), o.rv)).collect()
    }

    #[test]
    fn namespaces_that_begin_alike_are_kept_apart() {
        let mut all = Objects::default();
        for (n, namespace) in ["a", "a-b", "ab", "a.b", "b"].iter().enumerate() {
            for name in ["x", "y"] {
                all.insert(object(namespace, name, n as u64));
            }
        }
        for namespace in ["a", "a-b", "ab", "a.b", "b"] {
            let found: Vec<_> = all.within(namespace, "").map(|o| o.namespace.clone()).collect();
            assert_eq!(found, [namespace, namespace]);
            assert_eq!(all.count_within(namespace, ""), 2, "{namespace}");
            assert_eq!(all.count_within(namespace, &format!("{namespace}/x\0")), 1);
        }
        assert_eq!((all.count_within("c", ""), all.count_within("", "")), (0, 10));
        assert_eq!(all.count_within("", "b/"), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Against a map; and a snapshot keeps what it showed while the blocks are split and joined.
        #[test]
        fn it_is_a_sorted_map(ops in prop::collection::vec((0u16..900, any::<bool>()), 1..4000), cut in 0usize..4000) {
            let mut objects = Objects::default();
            let mut map: BTreeMap<String, u64> = BTreeMap::new();
            let mut snapshot = None;
            for (n, (name, put)) in ops.iter().enumerate() {
                if n == cut {
                    snapshot = Some((objects.clone(), map.clone()));
                }
                let name = format!("o{name:03}");
                if *put || n < 1200 {
                    objects.insert(object("", &name, n as u64));
                    map.insert(name, n as u64);
                } else {
                    objects.remove(&name);
                    map.remove(&name);
                }
            }
            let want: Vec<_> = map.iter().map(|(k, v)| (k.clone(), *v)).collect();
            prop_assert_eq!(keys(objects.from("")), want.clone());
            prop_assert_eq!(objects.is_empty(), want.is_empty());
            for probe in ["", "o000", "o333", "o333\0", "o899", "z"] {
                let rest: Vec<_> = want.iter().filter(|(k, _)| k.as_str() >= probe).cloned().collect();
                prop_assert_eq!(objects.count_within("", probe), rest.len());
                prop_assert_eq!(keys(objects.within("", probe)), rest);
                prop_assert_eq!(objects.get(probe).map(|o| o.rv), map.get(probe).copied());
            }
            if let Some((objects, map)) = snapshot {
                let want: Vec<_> = map.into_iter().collect();
                prop_assert_eq!(keys(objects.from("")), want);
            }
        }
    }
}
