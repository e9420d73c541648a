//! Uploaded files by themselves: in (management.md §6.2) and out to devices
//! (expo-updates.md §9).

mod limit;
mod range;
pub(super) mod serve;
pub(super) mod upload;

pub use self::limit::AssetLimits;
pub(crate) use self::limit::AssetReads;
pub(crate) use self::serve::AssetIndex;
