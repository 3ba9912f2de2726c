//! Whoever may do so acts as somebody else.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};

use super::refusal;
use crate::api::Api;
use crate::auth::rbac::Attributes;
use crate::auth::{AUTHENTICATED, UNAUTHENTICATED, User};
use crate::rest::names;
use crate::status::{ApiError, ApiResult};

const GROUP: &str = "authentication.k8s.io";
const EXTRA: &str = "impersonate-extra-";
const ANONYMOUS: &str = "system:anonymous";

/// Who a request wants to act as.
#[derive(Debug, Default)]
struct Wanted {
    name: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
    uid: String,
}

/// The user that the headers name, if this one may act as that; this one, if they name none.
pub(super) fn user(api: &Api, user: User, headers: &HeaderMap) -> ApiResult<User> {
    let wanted = Wanted::of(headers)?;
    if wanted.name.is_empty() {
        if wanted.groups.is_empty() && wanted.extra.is_empty() && wanted.uid.is_empty() {
            return Ok(user);
        }
        return Err(ApiError::bad_request(format!(
            "requested [{}] without impersonating a user",
            wanted.shown()
        )));
    }
    for a in wanted.asked() {
        if !api.rbac.allows(&user, &a) {
            return Err(refusal(&user, &a));
        }
    }
    Ok(wanted.user())
}

/// Namespace and name of a service account's user.
fn account(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (names::label(namespace).is_ok() && names::subdomain(name).is_ok()).then_some((namespace, name))
}

impl Wanted {
    fn of(headers: &HeaderMap) -> ApiResult<Self> {
        // A name that cannot be read must not be served as the one who asks.
        let text = |v: &HeaderValue| match std::str::from_utf8(v.as_bytes()) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(ApiError::bad_request("the impersonation headers are not UTF-8")),
        };
        let first = |name: &str| {
            headers
                .get(name)
                .map(text)
                .transpose()
                .map(Option::unwrap_or_default)
        };
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                extra.entry(unescaped(key)).or_default().push(text(value)?);
            }
        }
        Ok(Wanted {
            name: first("impersonate-user")?,
            groups: headers
                .get_all("impersonate-group")
                .iter()
                .map(text)
                .collect::<ApiResult<_>>()?,
            extra,
            uid: first("impersonate-uid")?,
        })
    }

    /// What has to be allowed, in the order in which a real server asks.
    fn asked(&self) -> Vec<Attributes> {
        let to = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: None,
        };
        let mut all = vec![match account(&self.name) {
            Some((namespace, name)) => to("", "serviceaccounts", "", namespace, name),
            None => to("", "users", "", "", &self.name),
        }];
        all.extend(self.groups.iter().map(|g| to("", "groups", "", "", g)));
        for (key, values) in &self.extra {
            all.extend(values.iter().map(|v| to(GROUP, "userextras", key, "", v)));
        }
        if !self.uid.is_empty() {
            all.push(to(GROUP, "uids", "", "", &self.uid));
        }
        all
    }

    /// The requests without a user as a real server prints them: Go's form of object references.
    fn shown(&self) -> String {
        let mut all: Vec<String> = self
            .groups
            .iter()
            .map(|g| format!("{{Group  {g}    }}"))
            .collect();
        for (key, values) in &self.extra {
            all.extend(
                values
                    .iter()
                    .map(|v| format!("{{UserExtra  {v}  {GROUP}/v1  {key}}}")),
            );
        }
        if !self.uid.is_empty() {
            all.push(format!("{{UID  {}  {GROUP}/v1  }}", self.uid));
        }
        all.join(" ")
    }

    fn user(self) -> User {
        let mut groups = self.groups;
        if let (true, Some((namespace, _))) = (groups.is_empty(), account(&self.name)) {
            groups.push("system:serviceaccounts".into());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        let has = |groups: &[String], group: &str| groups.iter().any(|g| g == group);
        if self.name == ANONYMOUS {
            if !has(&groups, UNAUTHENTICATED) {
                groups.push(UNAUTHENTICATED.into());
            }
        } else if !has(&groups, AUTHENTICATED) && !has(&groups, UNAUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        User {
            name: self.name,
            uid: self.uid,
            groups,
            extra: self.extra,
        }
    }
}

/// A key with its `%2f` and the like read; one in which they are wrong stays as it is.
fn unescaped(key: &str) -> String {
    let mut out = Vec::new();
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = after;
            continue;
        }
        let mut byte = [0];
        match after
            .get(..2)
            .map(|digits| hex::decode_to_slice(digits, &mut byte))
        {
            Some(Ok(())) => out.push(byte[0]),
            _ => return key.to_owned(),
        }
        rest = &after[2..];
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unescaped_and_accounts_told_from_users() {
        assert_eq!(unescaped("example.dev%2fteam"), "example.dev/team");
        for odd in ["a%", "a%2", "a%zz", "a%ff"] {
            assert_eq!(unescaped(odd), odd);
        }
        assert_eq!(account("system:serviceaccount:a:b"), Some(("a", "b")));
        for user in [
            "system:serviceaccount:a:b:c",
            "system:serviceaccount:a",
            "system:serviceaccount:A:b",
        ] {
            assert_eq!(account(user), None, "{user}");
        }
    }
}
