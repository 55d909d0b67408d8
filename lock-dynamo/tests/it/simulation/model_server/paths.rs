//! Paths into an item: `attribute`, `list[0]`, `map.field`, `list[0].field`.

use serde_json::{Value, json};

use super::{Item, expression::Update};

/// An attribute, and the way from it to a part of its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    pub(super) attribute: String,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Element(usize),
    Field(String),
}

impl From<&str> for Path {
    /// Returns the path of a whole attribute.
    fn from(attribute: &str) -> Self {
        Self { attribute: attribute.into(), steps: Vec::new() }
    }
}

impl Path {
    /// Reads a path, whose names `resolve` replaces.
    pub(super) fn parse(text: &str, mut resolve: impl FnMut(&str) -> Result<String, String>) -> Result<Self, String> {
        let mut names = text.split('.');
        let (attribute, mut steps) = elements(names.next().unwrap_or_default())?;
        let attribute = resolve(attribute)?;
        for name in names {
            let (field, more) = elements(name)?;
            steps.push(Step::Field(resolve(field)?));
            steps.extend(more);
        }
        Ok(Self { attribute, steps })
    }

    /// Returns whether this is the path of the whole attribute.
    pub(super) fn is(&self, attribute: &str) -> bool {
        self.steps.is_empty() && self.attribute == attribute
    }

    /// Returns whether `other` is at this path, or inside of what is there.
    pub(super) fn contains(&self, other: &Self) -> bool {
        self.attribute == other.attribute && other.steps.starts_with(&self.steps)
    }

    /// Returns the value at this path.
    pub(super) fn find<'i>(&self, item: &'i Item) -> Option<&'i Value> {
        self.steps.iter().try_fold(item.get(&self.attribute)?, |value, step| match step {
            Step::Element(index) => value["L"].get(index),
            Step::Field(field) => value["M"].get(field),
        })
    }

    fn find_mut<'i>(&self, item: &'i mut Item) -> Option<&'i mut Value> {
        self.steps.iter().try_fold(item.get_mut(&self.attribute)?, |value, step| match step {
            Step::Element(index) => value.get_mut("L")?.get_mut(*index),
            Step::Field(field) => value.get_mut("M")?.get_mut(field),
        })
    }

    /// Returns the path of what has this part, and the last step.
    fn split_last(&self) -> Option<(Self, &Step)> {
        let (last, steps) = self.steps.split_last()?;
        Some((Self { attribute: self.attribute.clone(), steps: steps.to_vec() }, last))
    }
}

/// Reads `name[0][1]`.
fn elements(text: &str) -> Result<(&str, Vec<Step>), String> {
    let (name, rest) = text.split_at(text.find('[').unwrap_or(text.len()));
    let indexes = rest.split_terminator(']').map(|index| {
        let index = index.strip_prefix('[').and_then(|index| index.parse().ok());
        index.map(Step::Element).ok_or_else(|| format!("Syntax error; token: {text}"))
    });
    Ok((name, indexes.collect::<Result<_, _>>()?))
}

/// Makes the changes to an item that exists.
pub(super) fn change(item: &mut Item, update: Update) -> Result<(), String> {
    let invalid = || "The document path provided in the update expression is invalid for update".to_owned();
    let mut elements = Vec::new();
    for path in &update.remove {
        match path.split_last() {
            None => {
                item.remove(&path.attribute);
            }
            Some((list, Step::Element(index))) => {
                list.find(item).and_then(|value| value["L"].as_array()).ok_or_else(invalid)?;
                elements.push((list, *index));
            }
            Some((map, Step::Field(field))) => {
                let map = map.find_mut(item).and_then(|value| value["M"].as_object_mut()).ok_or_else(invalid)?;
                map.remove(field);
            }
        }
    }
    for (path, value) in update.set {
        match path.split_last() {
            None => {
                item.insert(path.attribute, value);
            }
            Some((map, Step::Field(field))) => {
                let map = map.find_mut(item).and_then(|value| value["M"].as_object_mut()).ok_or_else(invalid)?;
                map.insert(field.clone(), value);
            }
            Some((_, Step::Element(_))) => return Err("the model replaces no elements".into()),
        }
    }
    for (path, new) in update.append {
        let list = item.entry(path.attribute).or_insert_with(|| json!({ "L": [] }));
        let list = list["L"].as_array_mut().ok_or("An operand in the update expression has an incorrect data type")?;
        list.extend(new["L"].as_array().into_iter().flatten().cloned());
    }
    // From the end, because all indexes are those before the update.
    elements.sort_unstable();
    for (path, index) in elements.into_iter().rev() {
        let list = path.find_mut(item).and_then(|value| value["L"].as_array_mut()).expect("it was checked");
        if index < list.len() {
            list.remove(index);
        }
    }
    Ok(())
}
