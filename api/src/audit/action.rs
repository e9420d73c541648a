//! The catalogue of management.md §13.3.

/// What can be recorded: a name, and the kind of thing it happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub(super) name: &'static str,
    pub(super) entity: &'static str,
}

macro_rules! actions {
    ($($constant:ident: $name:literal on $entity:literal;)*) => {
        #[allow(missing_docs)] // each is its name
        impl Action {
            $(pub const $constant: Self = Self { name: $name, entity: $entity };)*
        }
    };
}

actions! {
    BUILD_UPLOADED: "build.uploaded" on "build";
    BUILD_PUBLISHED: "build.published" on "build";
    BUILD_DELETED: "build.deleted" on "build";
    UPDATE_CREATED: "update.created" on "update";
    UPDATE_PATCHED: "update.patched" on "update";
    UPDATE_REPUBLISHED: "update.republished" on "update";
    UPDATE_DELETED: "update.deleted" on "update";
    UPDATE_ROLLBACK: "update.rollback" on "update";
    BRANCH_CREATED: "branch.created" on "branch";
    BRANCH_DELETED: "branch.deleted" on "branch";
    CHANNEL_CREATED: "channel.created" on "channel";
    CHANNEL_UPDATED: "channel.updated" on "channel";
    CHANNEL_DELETED: "channel.deleted" on "channel";
    WEBHOOK_CREATED: "webhook.created" on "webhook";
    WEBHOOK_UPDATED: "webhook.updated" on "webhook";
    WEBHOOK_DELETED: "webhook.deleted" on "webhook";
    FLAG_CREATED: "flag.created" on "flag";
    FLAG_UPDATED: "flag.updated" on "flag";
    FLAG_TOGGLED: "flag.toggled" on "flag";
    FLAG_DELETED: "flag.deleted" on "flag";
    RULE_CREATED: "rule.created" on "rule";
    RULE_UPDATED: "rule.updated" on "rule";
    RULE_DELETED: "rule.deleted" on "rule";
    ENV_SETTING_UPDATED: "env_setting.updated" on "env_setting";
    VARIATION_UPDATED: "variation.updated" on "variation";
    USER_INVITED: "user.invited" on "user";
    USER_ACTIVATED: "user.activated" on "user";
    API_KEY_CREATED: "api_key.created" on "api_key";
    API_KEY_REVOKED: "api_key.revoked" on "api_key";
    API_KEY_DELETED: "api_key.deleted" on "api_key";
    PROJECT_CREATED: "project.created" on "project";
    PROJECT_UPDATED: "project.updated" on "project";
    PROJECT_DELETED: "project.deleted" on "project";
    USER_OVERRIDE_CREATED: "user_override.created" on "user_override";
    USER_OVERRIDE_DELETED: "user_override.deleted" on "user_override";
    SEGMENT_CREATED: "segment.created" on "segment";
    SEGMENT_UPDATED: "segment.updated" on "segment";
    SEGMENT_DELETED: "segment.deleted" on "segment";
    CONTEXT_CREATED: "context.created" on "context";
    CONTEXT_DELETED: "context.deleted" on "context";
    GC_RUN: "gc.run" on "system";
}

/// The stored name of an entity type; the original's names are aliases.
pub(super) fn canonical_entity(name: &str) -> &str {
    match name {
        "feature_flag" => "flag",
        "flag_targeting_rule" => "rule",
        "flag_env_setting" => "env_setting",
        "flag_variation" => "variation",
        other => other,
    }
}

/// The stored name of an action; the original's names are aliases.
pub(super) fn canonical_action(name: &str) -> String {
    match name.split_once('.') {
        Some(("flag_rule", verb)) => format!("rule.{verb}"),
        Some(("flag_env", verb)) => format!("env_setting.{verb}"),
        Some(("flag_variation", verb)) => format!("variation.{verb}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_original_are_aliases() {
        assert_eq!(canonical_entity("feature_flag"), "flag");
        assert_eq!(canonical_entity("webhook"), "webhook");
        assert_eq!(canonical_action("flag_rule.created"), "rule.created");
        assert_eq!(canonical_action("flag_env.updated"), "env_setting.updated");
        assert_eq!(
            canonical_action("flag.rollout_applied"),
            "flag.rollout_applied"
        );
    }
}
