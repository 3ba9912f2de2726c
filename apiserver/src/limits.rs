//! Who may keep the server busy, and how much: requests under way, watches and connections, in all and by
//! each user or address. So one client that asks for too much is refused, and the others are served.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::Limits;

/// A number of places, of which each party gets a share.
#[derive(Debug)]
pub(crate) struct Places<K> {
    total: usize,
    share: usize,
    taken: Mutex<Taken<K>>,
    freed: Notify,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    by: HashMap<K, usize>,
    waiting: usize,
}

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Hash + Eq> {
    places: Arc<Places<K>>,
    party: K,
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// So many places, and at most `share` for each party.
    pub(crate) fn new(total: usize, share: usize) -> Arc<Self> {
        Arc::new(Places {
            total,
            share,
            taken: Mutex::new(Taken {
                all: 0,
                by: HashMap::new(),
                waiting: 0,
            }),
            freed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes a place now, if there is one.
    pub(crate) fn take(self: &Arc<Self>, party: &K) -> Option<Place<K>> {
        let mut taken = self.lock();
        let own = taken.by.get(party).copied().unwrap_or(0);
        if taken.all >= self.total || own >= self.share {
            return None;
        }
        taken.all += 1;
        taken.by.insert(party.clone(), own + 1);
        Some(Place {
            places: self.clone(),
            party: party.clone(),
        })
    }

    /// Takes a place, and waits for one for a while if there is none. As many may wait as there are places.
    pub(crate) async fn wait(self: &Arc<Self>, party: &K, patience: Duration) -> Option<Place<K>> {
        if let Some(place) = self.take(party) {
            return Some(place);
        }
        let _waiting = Waiting::enter(self)?;
        let attempt = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                // From here on nothing is missed.
                freed.as_mut().enable();
                if let Some(place) = self.take(party) {
                    return place;
                }
                freed.await;
            }
        };
        tokio::time::timeout(patience, attempt).await.ok()
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(|e| e.into_inner());
        taken.all -= 1;
        let left = taken.by.get_mut(&self.party).map(|n| {
            *n -= 1;
            *n
        });
        if left == Some(0) {
            taken.by.remove(&self.party);
        }
        let waiting = taken.waiting;
        drop(taken);
        if waiting > 0 {
            // All of them, since the first one may belong to a party that has its share already.
            self.places.freed.notify_waiters();
        }
    }
}

struct Waiting<'a, K>(&'a Places<K>);

impl<'a, K: Hash + Eq + Clone> Waiting<'a, K> {
    fn enter(places: &'a Places<K>) -> Option<Self> {
        let mut taken = places.lock();
        if taken.waiting >= places.total {
            return None;
        }
        taken.waiting += 1;
        Some(Waiting(places))
    }
}

impl<K> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        self.0.taken.lock().unwrap_or_else(|e| e.into_inner()).waiting -= 1;
    }
}

/// The places for requests.
#[derive(Debug)]
pub(crate) struct Gate {
    requests: Arc<Places<String>>,
    watches: Arc<Places<String>>,
    patience: Duration,
}

impl Gate {
    /// As set.
    pub(crate) fn new(limits: &Limits) -> Self {
        Gate {
            requests: Places::new(limits.requests, limits.requests_per_user),
            watches: Places::new(limits.watches, limits.watches_per_user),
            patience: limits.queue_time,
        }
    }

    /// Lets a request in, if there is room for it.
    pub(crate) async fn enter(&self, user: &str, watch: bool) -> Option<Place<String>> {
        let user = user.to_owned();
        if watch {
            self.watches.take(&user)
        } else {
            self.requests.wait(&user, self.patience).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_gets_more_than_their_share() {
        let places = Places::new(3, 2);
        let a = places.take(&"a").unwrap();
        let _a = places.take(&"a").unwrap();
        assert!(places.take(&"a").is_none(), "a has its share");
        let b = places.take(&"b").unwrap();
        assert!(places.take(&"c").is_none(), "all are taken");
        drop(b);
        let _c = places.take(&"c").unwrap();
        drop(a);
        assert!(places.take(&"a").is_some());
        assert_eq!(places.lock().by.len(), 2, "who has none is forgotten");
    }

    #[tokio::test]
    async fn those_who_wait_get_what_is_freed() {
        let places = Places::new(2, 1);
        let short = Duration::from_millis(20);
        let long = Duration::from_secs(20);
        let a = places.take(&"a").unwrap();
        let b = places.take(&"b").unwrap();
        assert!(places.wait(&"c", short).await.is_none());
        // The first waits for its own share, the second for any place; a third may not wait.
        let first = tokio::spawn({
            let places = places.clone();
            async move { places.wait(&"a", long).await.is_some() }
        });
        let second = tokio::spawn({
            let places = places.clone();
            async move { places.wait(&"c", long).await.is_some() }
        });
        while places.lock().waiting < 2 {
            tokio::task::yield_now().await;
        }
        assert!(places.wait(&"d", long).await.is_none(), "too many wait");
        drop(b);
        assert!(second.await.unwrap());
        assert!(!first.is_finished());
        drop(a);
        assert!(first.await.unwrap());
        assert_eq!(places.lock().waiting, 0);
    }
}
