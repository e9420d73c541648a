//! Which file of a build starts the app (management.md §7.1, expo-updates.md
//! §10). Pure.

use std::collections::HashMap;

use serde_json::Value;

/// What is known of an uploaded file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// Relative path.
    pub(super) name: &'a str,
    pub(super) content_type: &'a str,
}

/// The name under which an export describes itself.
pub(super) const METADATA_NAME: &str = "metadata.json";

/// What an export says about one platform.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ExportMetadata {
    bundle: Option<String>,
    /// Extension with its dot, by path.
    extensions: HashMap<String, String>,
}

impl ExportMetadata {
    /// Reads `metadata.json`; whatever is not as it should be says nothing.
    pub(super) fn parse(bytes: &[u8], platform: &str) -> Self {
        let root: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let of_platform = &root["fileMetadata"][platform];
        let assets = of_platform["assets"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let extension = |asset: &Value| {
            let (path, ext) = (asset["path"].as_str()?, asset["ext"].as_str()?);
            Some((path.to_owned(), format!(".{}", ext.trim_start_matches('.'))))
        };
        Self {
            bundle: of_platform["bundle"].as_str().map(str::to_owned),
            extensions: assets.iter().filter_map(extension).collect(),
        }
    }

    /// The extension of a file whose name has none.
    pub(super) fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.get(name).map(String::as_str)
    }
}

/// The index of the launch asset, if one can be told.
pub(super) fn detect(files: &[Candidate<'_>], metadata: &ExportMetadata) -> Option<usize> {
    let declared = metadata.bundle.as_deref();
    let position = |matches: &dyn Fn(&Candidate<'_>) -> bool| files.iter().position(matches);
    position(&|file| declared == Some(file.name))
        .or_else(|| position(&|file| has_ending(file.name, ".hbc")))
        .or_else(|| position(&is_javascript))
        .or_else(|| (files.len() == 1).then_some(0))
}

fn is_javascript(file: &Candidate<'_>) -> bool {
    let essence = file.content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    [".js", ".jsbundle", ".bundle"]
        .iter()
        .any(|ending| has_ending(file.name, ending))
        || matches!(
            essence.as_str(),
            "application/javascript" | "text/javascript"
        )
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.to_ascii_lowercase().ends_with(ending)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn detect_of(files: &[(&str, &str)]) -> Option<usize> {
        let files: Vec<_> = files
            .iter()
            .map(|&(name, content_type)| Candidate { name, content_type })
            .collect();
        detect(&files, &ExportMetadata::default())
    }

    #[test]
    fn bytecode_comes_before_javascript_and_that_before_the_only_file() {
        assert_eq!(
            detect_of(&[("a.js", ""), ("b.hbc", ""), ("c.hbc", "")]),
            Some(1)
        );
        assert_eq!(
            detect_of(&[("i.png", "image/png"), ("main.jsbundle", "")]),
            Some(1)
        );
        assert_eq!(
            detect_of(&[("i.png", ""), ("index.android.bundle", "")]),
            Some(1)
        );
        assert_eq!(
            detect_of(&[("i", ""), ("b", "text/javascript; charset=utf-8")]),
            Some(1)
        );
        assert_eq!(detect_of(&[("blob", "application/octet-stream")]), Some(0));
        assert_eq!(detect_of(&[("a.png", ""), ("b.png", "")]), None);
    }

    #[test]
    fn the_export_itself_knows_best() {
        let metadata = br#"{"fileMetadata":{"ios":{"bundle":"b/second.hbc",
            "assets":[{"path":"assets/4f1c","ext":"png"}]}}}"#;
        let files = ["b/first.hbc", "b/second.hbc"].map(|name| Candidate {
            name,
            content_type: "",
        });
        let ios = ExportMetadata::parse(metadata, "ios");
        assert_eq!(detect(&files, &ios), Some(1));
        assert_eq!(ios.extension("assets/4f1c"), Some(".png"));
        let android = ExportMetadata::parse(metadata, "android");
        assert_eq!(detect(&files, &android), Some(0));
    }

    proptest! {
        #[test]
        fn whatever_metadata_says_the_choice_is_one_of_the_files(
            bytes in any::<Vec<u8>>(), names in prop::collection::vec("[a-z]{0,3}(\\.hbc|\\.js|\\.png)?", 0..5)
        ) {
            let metadata = ExportMetadata::parse(&bytes, "ios");
            let files: Vec<_> = names.iter().map(|name| Candidate { name, content_type: "" }).collect();
            let chosen = detect(&files, &metadata);
            prop_assert!(chosen.is_none_or(|index| index < files.len()));
            let has_code = names.iter().any(|name| has_ending(name, ".hbc") || has_ending(name, ".js"));
            prop_assert!(!has_code || chosen.is_some());
        }
    }
}
