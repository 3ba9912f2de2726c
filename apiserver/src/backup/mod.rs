//! Backups: all objects at one version, and the keys and certificates of the server, as lines of JSON.
//!
//! A running server gives one at [`BACKUP_PATH`] and takes one at [`RESTORE_PATH`]; where none runs, a data
//! directory is read ([`from_directory`]) or made ([`into_directory`]). The first line says what it is, the
//! last one how much it holds and its digest: what was cut or changed is refused as a whole. A backup holds
//! Secrets and private keys.

mod directory;
mod format;
mod serve;

pub use directory::{from_directory, into_directory};
pub use format::{Summary, verify};
pub(crate) use serve::serve;

/// Where a running server gives a backup (GET).
pub const BACKUP_PATH: &str = "/store/backup";
/// Where a running server takes one (POST): its objects become those of the backup, as changes at new
/// versions, which watches see. Its keys and certificates stay.
pub const RESTORE_PATH: &str = "/store/restore";
