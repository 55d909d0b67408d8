//! Update and condition expressions, parsed and evaluated.

use std::{cell::RefCell, cmp::Ordering, collections::BTreeSet};

use serde_json::{Map, Value, json};

use super::{Item, paths::Path, tokens::tokens};

/// Assignments and removals.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) set: Vec<(Path, Value)>,
    /// Lists that others are put behind.
    pub(super) append: Vec<(Path, Value)>,
    pub(super) remove: Vec<Path>,
}

/// What must hold of an item.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Always,
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Exists(Path),
    Missing(Path),
    BeginsWith(Path, Value),
    /// Where a value of this type is, such as `{"S": "M"}`.
    OfType(Path, Value),
    /// Where a value is, the orders that are right, another value.
    Compare(Path, &'static [Ordering], Value),
    /// Where a map or a list is, the orders that are right of its length, a number.
    Size(Path, &'static [Ordering], Value),
}

impl Condition {
    pub(super) fn holds(&self, item: Option<&Item>) -> bool {
        let get = |path: &Path| item.and_then(|item| path.find(item));
        match self {
            Self::Always => true,
            Self::All(all) => all.iter().all(|one| one.holds(item)),
            Self::Any(any) => any.iter().any(|one| one.holds(item)),
            Self::Not(not) => !not.holds(item),
            Self::Exists(path) => get(path).is_some(),
            Self::Missing(path) => get(path).is_none(),
            Self::BeginsWith(path, prefix) => {
                let text = |value: &Value| value["S"].as_str().map(ToOwned::to_owned);
                let (Some(value), Some(prefix)) = (get(path).and_then(text), text(prefix)) else { return false };
                value.starts_with(&prefix)
            }
            Self::OfType(path, kind) => {
                get(path).zip(kind["S"].as_str()).is_some_and(|(there, kind)| there.get(kind).is_some())
            }
            Self::Compare(path, orders, value) => {
                get(path).and_then(|there| compare(there, value)).is_some_and(|order| orders.contains(&order))
            }
            Self::Size(path, orders, number) => {
                let length = get(path).and_then(length).map(|length| json!({ "N": length.to_string() }));
                length.and_then(|length| compare(&length, number)).is_some_and(|order| orders.contains(&order))
            }
        }
    }

    /// The value that the attribute must equal for the whole to hold.
    pub(super) fn required(&self, attribute: &str) -> Option<&Value> {
        match self {
            Self::Compare(path, [Ordering::Equal], value) if path.is(attribute) => Some(value),
            Self::All(all) => all.iter().find_map(|one| one.required(attribute)),
            _ => None,
        }
    }

    /// Whether there must be something at `path` for the whole to hold.
    pub(super) fn requires(&self, path: &Path) -> bool {
        match self {
            Self::Exists(required) => required == path,
            Self::All(all) => all.iter().any(|one| one.requires(path)),
            _ => false,
        }
    }

    /// Replaces parts, from the inside out.
    pub(super) fn replace(&mut self, replacement: &dyn Fn(&Self) -> Option<Self>) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter_mut().for_each(|part| part.replace(replacement)),
            Self::Not(part) => part.replace(replacement),
            _ => {}
        }
        if let Some(other) = replacement(self) {
            *self = other;
        }
    }
}

/// The length of a map or a list; locks ask for no other.
fn length(value: &Value) -> Option<usize> {
    let map = value["M"].as_object().map(Map::len);
    map.or_else(|| value["L"].as_array().map(Vec::len))
}

/// The order of two values of one type; `None` for types that differ or have no order.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    let number = |value: &Value| value["N"].as_str().and_then(|text| text.parse::<i128>().ok());
    match (number(a), number(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ if a["M"].is_object() => (a == b).then_some(Ordering::Equal),
        _ => Some(a["S"].as_str()?.cmp(b["S"].as_str()?)),
    }
}

/// The placeholders of a request, and which of them its expressions have used.
#[derive(Debug)]
pub(super) struct Expressions {
    names: Map<String, Value>,
    values: Map<String, Value>,
    used: RefCell<BTreeSet<String>>,
}

impl Expressions {
    pub(super) fn new(body: &Value) -> Self {
        let object = |field: &str| body[field].as_object().cloned().unwrap_or_default();
        let (names, values) = (object("ExpressionAttributeNames"), object("ExpressionAttributeValues"));
        Self { names, values, used: RefCell::default() }
    }

    pub(super) fn condition(&self, text: Option<&str>) -> Result<Condition, String> {
        let Some(text) = text else { return Ok(Condition::Always) };
        let mut parser = Parser::new(text, Some(self), &[])?;
        let condition = parser.any()?;
        parser.end()?;
        Ok(condition)
    }

    pub(super) fn update(&self, text: &str) -> Result<Update, String> {
        let mut parser = Parser::new(text, Some(self), &[])?;
        let mut update = Update::default();
        while parser.peek().is_some() {
            if parser.takes("SET") {
                parser.listed(|parser| {
                    if let Some(appended) = parser.appended()? {
                        update.append.push(appended);
                    } else {
                        update.set.push(parser.assignment()?);
                    }
                    Ok(())
                })?;
            } else if parser.takes("REMOVE") {
                parser.listed(|parser| {
                    let name = parser.name()?;
                    update.remove.push(name);
                    Ok(())
                })?;
            } else {
                return Err(parser.unexpected());
            }
        }
        Ok(update)
    }

    pub(super) fn all_used(&self) -> Result<(), String> {
        let used = self.used.borrow();
        match self.names.keys().chain(self.values.keys()).find(|placeholder| !used.contains(*placeholder)) {
            Some(unused) => Err(format!("Value provided unused in expressions: keys: {{{unused}}}")),
            None => Ok(()),
        }
    }
}

/// Reads expressions of either kind: with placeholders, or PartiQL's with quoted names and
/// parameters.
pub(super) struct Parser<'a> {
    tokens: Vec<String>,
    at: usize,
    placeholders: Option<&'a Expressions>,
    parameters: std::slice::Iter<'a, Value>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(
        text: &str,
        placeholders: Option<&'a Expressions>,
        parameters: &'a [Value],
    ) -> Result<Self, String> {
        Ok(Self { tokens: tokens(text)?, at: 0, placeholders, parameters: parameters.iter() })
    }

    pub(super) fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> Result<String, String> {
        let token = self.tokens.get(self.at).cloned().ok_or("the expression ends too soon")?;
        self.at += 1;
        Ok(token)
    }

    /// Whether the next token is this word or sign; takes it if so.
    pub(super) fn takes(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.takes(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(super) fn unexpected(&self) -> String {
        format!("Syntax error; token: {:?}, near: {:?}", self.peek(), self.tokens)
    }

    pub(super) fn end(&self) -> Result<(), String> {
        if self.peek().is_none() && self.parameters.len() == 0 { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(super) fn listed(&mut self, mut one: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        one(self)?;
        while self.takes(",") {
            one(self)?;
        }
        Ok(())
    }

    /// Reads `a = list_append(if_not_exists(a, :empty), :list)`, if this is next.
    fn appended(&mut self) -> Result<Option<(Path, Value)>, String> {
        if self.tokens[self.at..].get(2).is_none_or(|token| token != "list_append") {
            return Ok(None);
        }
        let name = self.name()?;
        for word in ["=", "list_append", "(", "if_not_exists", "("] {
            self.expect(word)?;
        }
        let (other, empty) = (self.name()?, (self.expect(",")?, self.value()?).1);
        if other != name || !name.steps.is_empty() || empty["L"] != Value::Array(Vec::new()) {
            return Err("the model appends to the list of an attribute, or to nothing".into());
        }
        for word in [")", ","] {
            self.expect(word)?;
        }
        let list = self.value()?;
        self.expect(")")?;
        Ok(Some((name, list)))
    }

    pub(super) fn assignment(&mut self) -> Result<(Path, Value), String> {
        let name = self.name()?;
        self.expect("=")?;
        Ok((name, self.value()?))
    }

    pub(super) fn name(&mut self) -> Result<Path, String> {
        let token = self.next()?;
        if let Some(quoted) = token.strip_prefix('"') {
            return Ok(Path::from(quoted));
        }
        Path::parse(&token, |name| match self.placeholders {
            Some(placeholders) if name.starts_with('#') => {
                placeholders.used.borrow_mut().insert(name.to_owned());
                let found = placeholders.names.get(name).and_then(Value::as_str);
                found.map(str::to_owned).ok_or_else(|| {
                    format!("An expression attribute name used in the document path is not defined: {name}")
                })
            }
            _ if name.starts_with(|c: char| c.is_ascii_alphabetic()) => Ok(name.to_owned()),
            _ => Err(format!("Syntax error; token: {name}")),
        })
    }

    pub(super) fn value(&mut self) -> Result<Value, String> {
        let token = self.next()?;
        match self.placeholders {
            None if token == "?" => self.parameters.next().cloned().ok_or_else(|| "a parameter is missing".into()),
            Some(placeholders) if token.starts_with(':') => {
                placeholders.used.borrow_mut().insert(token.clone());
                let value = placeholders.values.get(&token).cloned();
                value.ok_or_else(|| format!("An expression attribute value used in expression is not defined: {token}"))
            }
            _ => Err(format!("Syntax error; token: {token}")),
        }
    }

    pub(super) fn any(&mut self) -> Result<Condition, String> {
        let mut any = vec![self.all()?];
        while self.takes("OR") {
            any.push(self.all()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Condition::Any(any) })
    }

    fn all(&mut self) -> Result<Condition, String> {
        let mut all = vec![self.one()?];
        while self.takes("AND") {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::All(all) })
    }

    fn one(&mut self) -> Result<Condition, String> {
        if self.takes("NOT") {
            return Ok(Condition::Not(Box::new(self.one()?)));
        }
        if self.takes("(") {
            let inner = self.any()?;
            self.expect(")")?;
            return Ok(inner);
        }
        for function in ["attribute_exists", "attribute_not_exists", "attribute_type", "begins_with"] {
            if self.takes(function) {
                return self.call(function);
            }
        }
        if self.takes("size") {
            self.expect("(")?;
            let path = self.name()?;
            self.expect(")")?;
            return Ok(Condition::Size(path, self.orders()?, self.value()?));
        }
        let path = self.name()?;
        if self.takes("IS") {
            let not = self.takes("NOT");
            self.expect("MISSING")?;
            return Ok(if not { Condition::Exists(path) } else { Condition::Missing(path) });
        }
        Ok(Condition::Compare(path, self.orders()?, self.value()?))
    }

    /// Reads what follows the name of a function.
    fn call(&mut self, function: &str) -> Result<Condition, String> {
        self.expect("(")?;
        let path = self.name()?;
        let condition = match function {
            "attribute_exists" => Condition::Exists(path),
            "attribute_not_exists" => Condition::Missing(path),
            _ => {
                self.expect(",")?;
                let value = self.value()?;
                if function == "begins_with" {
                    Condition::BeginsWith(path, value)
                } else {
                    Condition::OfType(path, value)
                }
            }
        };
        self.expect(")")?;
        Ok(condition)
    }

    /// Reads a sign, and returns the orders for which it holds.
    fn orders(&mut self) -> Result<&'static [Ordering], String> {
        use Ordering::{Equal, Greater, Less};
        Ok(match self.next()?.as_str() {
            "=" => &[Equal],
            "<" => &[Less],
            "<=" => &[Less, Equal],
            ">" => &[Greater],
            ">=" => &[Greater, Equal],
            other => return Err(format!("Syntax error; token: {other}")),
        })
    }
}
