//! Label selectors as objects write them: `matchLabels` and `matchExpressions`.

use serde_json::Value;

use super::label::{LabelSelector, Requirement};
use crate::rest::names;
use crate::status::Cause;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value
        .get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

impl LabelSelector {
    /// From an object; the empty one takes all. The error says what cannot be read.
    pub(crate) fn of(selector: &Value) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::In(key.clone(), vec![value]));
        }
        for expression in list(selector, "matchExpressions") {
            let key = text(expression, "key").to_owned();
            let values = list(expression, "values");
            let values: Vec<String> = values
                .iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect();
            requirements.push(match (text(expression, "operator"), values.is_empty()) {
                ("In", false) => Requirement::In(key, values),
                ("NotIn", false) => Requirement::NotIn(key, values),
                ("Exists", true) => Requirement::Exists(key),
                ("DoesNotExist", true) => Requirement::Absent(key),
                ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {
                    return Err(format!("the values of {key:?} do not go with its operator"));
                }
                (other, _) => return Err(format!("{other:?} is not a valid label selector operator")),
            });
        }
        Ok(LabelSelector { requirements })
    }
}

/// What is wrong with a selector that stands at `at`.
pub(crate) fn check(selector: &Value, at: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (key, value) in selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let field = format!("{at}.matchLabels");
        if let Err(e) = names::label_key(key) {
            causes.push(Cause::invalid(&field, &key.as_str().into(), e));
        }
        if let Err(e) = names::label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(&field, value, e));
        }
    }
    for (i, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => causes.push(Cause::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.push(Cause::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.push(Cause::invalid(
                format!("{at}.operator"),
                &other.into(),
                "not a valid selector operator",
            )),
        }
        let key = text(expression, "key");
        if let Err(e) = names::label_key(key) {
            causes.push(Cause::invalid(format!("{at}.key"), &key.into(), e));
        }
        for (n, value) in values.iter().enumerate() {
            if let Err(e) = names::label_value(value.as_str().unwrap_or_default()) {
                causes.push(Cause::invalid(format!("{at}.values[{n}]"), value, e));
            }
        }
    }
    causes
}
