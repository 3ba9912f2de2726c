//! What can go wrong between Strait and the kernel.

use std::fmt;
use std::io;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An operation on the kernel that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("cannot {doing}: {refusal}")]
    Refused {
        /// What was asked, with the object's name.
        doing: String,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// An object that an operation needs does not exist.
    #[error("cannot {doing}: there is no {what}")]
    Missing {
        /// What was asked.
        doing: String,
        /// What does not exist.
        what: String,
    },
    /// A request that no kernel could carry out.
    #[error("cannot {doing}: {why}")]
    Invalid {
        /// What was asked.
        doing: String,
        /// Why it makes no sense.
        why: String,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// The error.
        source: io::Error,
    },
    /// The kernel was built without something, or its module is not loaded.
    #[error("this kernel seems to have no {feature}: {source}; {remedy}")]
    Feature {
        /// What it lacks.
        feature: String,
        /// What to load or enable.
        remedy: String,
        /// What it answered.
        source: Box<Error>,
    },
    /// Network or user namespaces are not to be had.
    #[error("cannot {doing}: {source}; {remedy}")]
    Namespaces {
        /// What was tried.
        doing: String,
        /// The error.
        source: io::Error,
        /// What to enable.
        remedy: String,
    },
    /// The kernel sent what we cannot read, or did not answer.
    #[error("netlink: {0}")]
    Protocol(String),
    /// The kernel dropped messages because our receive buffer was full: read everything again.
    #[error("netlink: the receive buffer overran, messages were lost")]
    Overrun,
    /// A set of rules cannot be expressed.
    #[error("nftables rule in chain {chain}: {why}")]
    Rule {
        /// The chain.
        chain: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    pub(crate) fn system(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            doing: doing.into(),
            source: source.into(),
        }
    }

    pub(crate) fn missing(doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Missing {
            doing: doing.into(),
            what: what.into(),
        }
    }

    /// The same, told as what the kernel lacks where one of these error numbers says so.
    pub(crate) fn lacking(self, errnos: &[i32], feature: impl Into<String>, remedy: &str) -> Self {
        match self.errno() {
            Some(errno) if errnos.contains(&errno) => Self::Feature {
                feature: feature.into(),
                remedy: remedy.to_owned(),
                source: Box::new(self),
            },
            _ => self,
        }
    }

    /// The kernel's error number, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            Self::System { source, .. } | Self::Namespaces { source, .. } => source.raw_os_error(),
            Self::Feature { source, .. } => source.errno(),
            _ => None,
        }
    }
}

/// The kernel's "no": an error number and, often, a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Positive error number.
    pub errno: i32,
    /// The kernel's own words, where it has any.
    pub text: Option<String>,
}

impl Refusal {
    pub(crate) fn doing(self, doing: impl Into<String>) -> Error {
        Error::Refused {
            doing: doing.into(),
            refusal: self,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        if self.errno == libc::EPERM {
            f.write_str("; needs CAP_NET_ADMIN in the network namespace's user namespace")?;
        }
        Ok(())
    }
}
