//! From YAML to entries. What is wrong there is told as everything else: line, field, cause, next step.

use anyhow::{Result, anyhow};
use serde_saphyr::{Error, MessageFormatter as _, Options, UserMessageFormatter};

use super::entries::File;

pub(super) fn entries(text: &str) -> Result<File> {
    let mut field = String::new();
    let mut options = Options::default();
    // One line is said of each mistake; the file is where it was.
    options.with_snippet = false;
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            field = error.path().to_string();
            error.into_inner()
        })
    })
    .map_err(|error| anyhow!("{}", told(&error, &field)))
}

fn told(error: &Error, field: &str) -> String {
    let error = error.without_snippet();
    let line = error.location().map_or(1, |at| at.line().max(1));
    // What stands between a value and its place is of no interest, nor is a key that was not read to its end.
    let mut field = field.replace(".value", "");
    field.truncate(field.trim_end_matches(['?', '.']).len());
    let what = match error {
        Error::MultipleDocuments { .. } => {
            "a second document begins; a lab is one: take it out, or put it into a file of its own".to_owned()
        }
        Error::DuplicateMappingKey { key, .. } => {
            if let Some(key) = key {
                field = if field.is_empty() {
                    key.clone()
                } else {
                    format!("{field}.{key}")
                };
            }
            "it is said twice; take one of them out".to_owned()
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "its aliases or its nesting make more of it than a lab can be; write it out".to_owned()
        }
        other => {
            // Some of its sentences go over several lines.
            let said = UserMessageFormatter.format_message(other);
            let said: Vec<&str> = said.split_whitespace().collect();
            match said.join(" ").as_str() {
                "expected sequence start" => "it takes a list, such as [a, b]".to_owned(),
                "expected mapping start" => "it takes fields, such as `name: blue`".to_owned(),
                said => format!("{said}; see the examples in lab/examples"),
            }
        }
    };
    let field = match field.as_str() {
        "" => String::new(),
        field => format!(", {field}"),
    };
    format!("line {line}{field}: {what}")
}
