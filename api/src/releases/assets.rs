//! Uploaded files by themselves: in (management.md §6.2) and out to devices
//! (expo-updates.md §9).

mod range;
pub(super) mod serve;
pub(super) mod upload;

pub(crate) use self::serve::AssetIndex;
