//! The catalogue of management.md §12.4.

/// What a webhook can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is its name
pub enum Event {
    BuildUploaded,
    BuildPublished,
    BuildDeleted,
    UpdateCreated,
    UpdatePatched,
    UpdateRepublished,
    UpdateDeleted,
    RollbackCreated,
    BranchCreated,
    BranchDeleted,
    ChannelCreated,
    ChannelUpdated,
    ChannelDeleted,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::BuildUploaded,
        Self::BuildPublished,
        Self::BuildDeleted,
        Self::UpdateCreated,
        Self::UpdatePatched,
        Self::UpdateRepublished,
        Self::UpdateDeleted,
        Self::RollbackCreated,
        Self::BranchCreated,
        Self::BranchDeleted,
        Self::ChannelCreated,
        Self::ChannelUpdated,
        Self::ChannelDeleted,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::BuildUploaded => "build.uploaded",
            Self::BuildPublished => "build.published",
            Self::BuildDeleted => "build.deleted",
            Self::UpdateCreated => "update.created",
            Self::UpdatePatched => "update.patched",
            Self::UpdateRepublished => "update.republished",
            Self::UpdateDeleted => "update.deleted",
            Self::RollbackCreated => "rollback.created",
            Self::BranchCreated => "branch.created",
            Self::BranchDeleted => "branch.deleted",
            Self::ChannelCreated => "channel.created",
            Self::ChannelUpdated => "channel.updated",
            Self::ChannelDeleted => "channel.deleted",
        }
    }

    /// The event of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }
}
