//! Paths into an item: `attribute`, `list[0]`, `list[0].field`.

use serde_json::{Value, json};

use super::{Item, expression::Update};

/// A path, in its parts.
struct Path<'a> {
    attribute: &'a str,
    /// An element of a list, and a field of it.
    element: Option<(usize, Option<&'a str>)>,
}

impl<'a> Path<'a> {
    fn new(text: &'a str) -> Self {
        let Some((attribute, rest)) = text.split_once('[') else { return Self { attribute: text, element: None } };
        let (index, field) = rest.split_once(']').expect("a bracket is closed");
        let index = index.parse().expect("an index is a number");
        Self { attribute, element: Some((index, field.strip_prefix('.'))) }
    }
}

/// The value at a path.
pub(super) fn value<'i>(item: &'i Item, path: &str) -> Option<&'i Value> {
    let path = Path::new(path);
    let value = item.get(path.attribute)?;
    match path.element {
        None => Some(value),
        Some((index, None)) => value["L"].get(index),
        Some((index, Some(field))) => value["L"].get(index)?["M"].get(field),
    }
}

/// Makes the changes to an item that exists.
pub(super) fn change(item: &mut Item, update: Update) -> Result<(), String> {
    let invalid = || "The document path provided in the update expression is invalid for update".to_owned();
    let mut elements = Vec::new();
    for path in &update.remove {
        match Path::new(path) {
            Path { attribute, element: None } => {
                item.remove(attribute);
            }
            Path { attribute, element: Some((index, None)) } => {
                item.get(attribute).and_then(|value| value["L"].as_array()).ok_or_else(invalid)?;
                elements.push((attribute, index));
            }
            Path { .. } => return Err("the model removes no fields".into()),
        }
    }
    for (path, value) in update.set {
        match Path::new(&path) {
            Path { attribute, element: None } => {
                item.insert(attribute.to_owned(), value);
            }
            Path { attribute, element: Some((index, Some(field))) } => {
                let element = item.get_mut(attribute).and_then(|list| list["L"].get_mut(index)).ok_or_else(invalid)?;
                element["M"][field] = value;
            }
            Path { .. } => return Err("the model replaces no elements".into()),
        }
    }
    for (attribute, new) in update.append {
        let list = item.entry(attribute).or_insert_with(|| json!({ "L": [] }));
        let list = list["L"].as_array_mut().ok_or("An operand in the update expression has an incorrect data type")?;
        list.extend(new["L"].as_array().into_iter().flatten().cloned());
    }
    // From the end, because all indexes are those before the update.
    elements.sort_unstable();
    for (attribute, index) in elements.into_iter().rev() {
        let list = item[attribute]["L"].as_array_mut().expect("it was checked");
        if index < list.len() {
            list.remove(index);
        }
    }
    Ok(())
}
