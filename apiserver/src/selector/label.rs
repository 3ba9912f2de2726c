//! `labelSelector=app=web,tier in (a,b),!old`.

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Greater(String, i64),
    Less(String, i64),
}

/// A parsed label selector; the empty one takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector {
    pub(super) requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Op(&'static str),
    End,
}

struct Lexer<'a> {
    rest: &'a str,
}

impl Lexer<'_> {
    fn next(&mut self) -> Token {
        self.rest = self.rest.trim_start();
        for op in ["==", "!=", "=", "!", "(", ")", ",", "<", ">"] {
            if let Some(rest) = self.rest.strip_prefix(op) {
                self.rest = rest;
                return Token::Op(op);
            }
        }
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return Token::End;
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Word(word.to_owned())
    }

    fn peek(&self) -> Token {
        Lexer { rest: self.rest }.next()
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(w) => w.clone(),
        Token::Op(o) => (*o).to_owned(),
        Token::End => String::new(),
    }
}

fn expected(token: &Token, what: &str) -> String {
    format!(
        "unable to parse requirement: found '{}', expected: {what}",
        shown(token)
    )
}

impl LabelSelector {
    /// Parses a selector; the error is what a client reads.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut lexer = Lexer { rest: text };
        let mut requirements = Vec::new();
        if lexer.peek() == Token::End {
            return Ok(LabelSelector::default());
        }
        loop {
            requirements.push(requirement(&mut lexer)?);
            match lexer.next() {
                Token::End => break,
                Token::Op(",") => match lexer.peek() {
                    Token::Word(_) | Token::Op("!") => {}
                    other => {
                        return Err(format!(
                            "found '{}', expected: identifier after ','",
                            shown(&other)
                        ));
                    }
                },
                other => {
                    return Err(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        shown(&other)
                    ));
                }
            }
        }
        Ok(LabelSelector { requirements })
    }

    /// Whether everything matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether `labels`, sorted by key, match.
    pub(crate) fn matches(&self, labels: &[(String, String)]) -> bool {
        let find = |key: &str| {
            labels
                .binary_search_by(|(k, _)| k.as_str().cmp(key))
                .ok()
                .map(|i| labels[i].1.as_str())
        };
        self.requirements.iter().all(|r| match r {
            Requirement::Exists(k) => find(k).is_some(),
            Requirement::Absent(k) => find(k).is_none(),
            Requirement::In(k, values) => find(k).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(k, values) => find(k).is_none_or(|v| values.iter().all(|w| w != v)),
            Requirement::Greater(k, n) => find(k)
                .and_then(|v| v.parse::<i64>().ok())
                .is_some_and(|v| v > *n),
            Requirement::Less(k, n) => find(k)
                .and_then(|v| v.parse::<i64>().ok())
                .is_some_and(|v| v < *n),
        })
    }
}

fn requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, String> {
    let key = |token: Token| match token {
        Token::Word(w) => {
            crate::rest::names::label_key(&w).map_err(|e| format!("key: Invalid value: {w:?}: {e}"))?;
            Ok(w)
        }
        other => Err(expected(&other, "identifier")),
    };
    if lexer.peek() == Token::Op("!") {
        lexer.next();
        return Ok(Requirement::Absent(key(lexer.next())?));
    }
    let name = match lexer.next() {
        Token::Word(w) => key(Token::Word(w))?,
        other => return Err(expected(&other, "!, identifier, or 'end of string'")),
    };
    match lexer.peek() {
        Token::End | Token::Op(",") => Ok(Requirement::Exists(name)),
        Token::Op("=" | "==") => {
            lexer.next();
            Ok(Requirement::In(name, vec![value(lexer)?]))
        }
        Token::Op("!=") => {
            lexer.next();
            Ok(Requirement::NotIn(name, vec![value(lexer)?]))
        }
        Token::Op(op @ ("<" | ">")) => {
            lexer.next();
            let text = value(lexer)?;
            let n: i64 = text.parse().map_err(|_| {
                format!("values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
            })?;
            Ok(if op == ">" {
                Requirement::Greater(name, n)
            } else {
                Requirement::Less(name, n)
            })
        }
        Token::Word(op) if op == "in" || op == "notin" => {
            lexer.next();
            let values = set(lexer)?;
            Ok(if op == "in" {
                Requirement::In(name, values)
            } else {
                Requirement::NotIn(name, values)
            })
        }
        other => Err(expected(&other, "in, notin, =, ==, !=, gt, lt")),
    }
}

fn checked(text: String) -> Result<String, String> {
    crate::rest::names::label_value(&text)
        .map_err(|e| format!("unable to parse requirement: values[0]: Invalid value: {text:?}: {e}"))?;
    Ok(text)
}

fn value(lexer: &mut Lexer<'_>) -> Result<String, String> {
    match lexer.peek() {
        Token::Word(w) => {
            lexer.next();
            checked(w)
        }
        Token::End | Token::Op(",") => Ok(String::new()),
        other => Err(expected(&other, "identifier")),
    }
}

fn set(lexer: &mut Lexer<'_>) -> Result<Vec<String>, String> {
    match lexer.next() {
        Token::Op("(") => {}
        other => return Err(expected(&other, "'('")),
    }
    let mut values = Vec::new();
    loop {
        match lexer.next() {
            Token::Word(w) => {
                values.push(checked(w)?);
                match lexer.next() {
                    Token::Op(",") => {}
                    Token::Op(")") => return Ok(values),
                    other => return Err(expected(&other, "',' or ')'")),
                }
            }
            Token::Op(",") => values.push(String::new()),
            Token::Op(")") => {
                values.push(String::new());
                return Ok(values);
            }
            other => return Err(expected(&other, "',', ')' or identifier")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut l: Vec<_> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        l.sort();
        l
    }

    #[test]
    fn selectors_match_as_in_kubernetes() {
        let have = labels(&[("app", "web"), ("n", "3")]);
        for (text, want) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app==web,n=3", true),
            ("app!=web", false),
            ("gone!=x", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("gone notin (web)", true),
            ("n>2", true),
            ("n<2", false),
            ("gone in ()", false),
        ] {
            let parsed = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.matches(&have), want, "{text}");
        }
    }

    #[test]
    fn bad_selectors_are_refused() {
        for text in [
            "a===b", "a in b", "a in (b", ",a", "a,", "a b", "(a)", "a=b=c", "a>x",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text} should be refused");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "[a-c=!<>(), ./\n]{0,24}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                let _ = selector.matches(&labels(&[("a", "b")]));
            }
        }
    }
}
