//! The file's entries, as they stand there.

use std::fmt::Formatter;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

/// A single value of any kind, as text: what is wrong with it is told by its field's name.
#[derive(Debug)]
pub(super) struct Word(pub(super) String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyWord;
        impl Visitor<'_> for AnyWord {
            type Value = Word;

            fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                f.write_str("a single value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Word, E> {
                Ok(Word(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }
        }
        deserializer.deserialize_any(AnyWord)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct File {
    pub(super) clusters: Spanned<Vec<ClusterEntry>>,
    #[serde(default)]
    pub(super) links: Vec<LinkEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ClusterEntry {
    pub(super) name: Option<Spanned<Word>>,
    pub(super) nodes: Option<Spanned<Word>>,
    pub(super) gateways: Option<Spanned<Word>>,
    pub(super) families: Option<Spanned<Word>>,
    #[serde(default)]
    pub(super) pod_cidrs: Vec<Spanned<Word>>,
    #[serde(default)]
    pub(super) service_cidrs: Vec<Spanned<Word>>,
    pub(super) underlay: Option<UnderlayEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UnderlayEntry {
    pub(super) nat: Option<Spanned<Word>>,
    pub(super) mtu: Option<Spanned<Word>>,
    pub(super) delay: Option<Spanned<Word>>,
    pub(super) jitter: Option<Spanned<Word>>,
    pub(super) loss: Option<Spanned<Word>>,
    pub(super) rate: Option<Spanned<Word>>,
    pub(super) icmp_blackhole: Option<Spanned<Word>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LinkEntry {
    pub(super) between: Spanned<Vec<String>>,
    pub(super) mtu: Option<Spanned<Word>>,
    pub(super) delay: Option<Spanned<Word>>,
    pub(super) jitter: Option<Spanned<Word>>,
    pub(super) loss: Option<Spanned<Word>>,
    pub(super) rate: Option<Spanned<Word>>,
    pub(super) icmp_blackhole: Option<Spanned<Word>>,
}
