//! The names of a lock's attributes in one table.

use std::borrow::Cow;

use super::{Attribute, Schema};

/// The names of all attributes in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) schema: Schema,
    /// The name of each attribute, in the order of [`Attribute::ALL`].
    names: Vec<Cow<'static, str>>,
    /// Name and value of the sort key.
    pub(crate) sort: Option<(String, String)>,
    /// Whether items have a TTL attribute. Java and Go clients may copy it into the item of a lock
    /// of their own, and never renew it. DynamoDB would delete that item while they hold the lock.
    pub(crate) has_ttl: bool,
}

/// DynamoDB's limit on the names of keys and of a TTL attribute, applied here to all names.
const LONGEST_NAME: usize = 255;
/// DynamoDB's limit on the value of a sort key.
const LONGEST_SORT_VALUE: usize = 1_024;

impl Layout {
    /// The default layout of the client of that schema.
    pub(crate) fn of(schema: Schema) -> Self {
        let names = Attribute::ALL.iter().map(|attribute| Cow::Borrowed(schema.default_name(*attribute))).collect();
        let sort = (schema == Schema::Python).then(|| ("sort_key".into(), "-".into()));
        let has_ttl = !matches!(schema, Schema::Java | Schema::Go);
        Self { schema, names, sort, has_ttl }
    }

    pub(crate) fn rename(&mut self, attribute: Attribute, name: String) {
        // A user who names it knows that all clients write it.
        self.has_ttl |= attribute == Attribute::CollectAt;
        self.names[attribute as usize] = name.into();
    }

    pub(crate) fn name(&self, attribute: Attribute) -> &str {
        &self.names[attribute as usize]
    }

    /// Whether items keep a fencing token. Foreign clients replace or delete whole items, and the
    /// token with them.
    pub(crate) fn fences(&self) -> bool {
        self.schema == Schema::Native
    }

    /// Whether a lock may have several holders. Foreign clients know one holder.
    pub(crate) fn has_modes(&self) -> bool {
        self.schema == Schema::Native
    }

    /// Whether items keep a queue of fair requests. Foreign clients would not look at it.
    pub(crate) fn has_queue(&self) -> bool {
        self.schema == Schema::Native
    }

    /// Whether items of this layout have the attribute.
    fn has(&self, attribute: Attribute) -> bool {
        match attribute {
            Attribute::Lease => self.schema != Schema::Native,
            Attribute::Released => !self.schema.deletes_on_release(),
            Attribute::Fence => self.fences(),
            Attribute::Mode | Attribute::Parts | Attribute::Waiting => self.has_modes(),
            Attribute::Places => self.has_queue(),
            Attribute::CollectAt => self.has_ttl,
            _ => true,
        }
    }

    /// Checks the names.
    ///
    /// # Errors
    /// The problem, if two attributes have the same name, DynamoDB refuses a name, or the foreign
    /// client reads the attribute under another name.
    pub(crate) fn check(&self) -> Result<(), String> {
        let named: Vec<_> =
            Attribute::ALL.iter().filter(|a| self.has(**a)).map(|a| (a.as_str(), self.name(*a))).collect();
        let named = || named.iter().copied().chain(self.sort.as_ref().map(|(name, _)| ("sort_key", name.as_str())));
        for (i, (attribute, name)) in named().enumerate() {
            if name.is_empty() || name.len() > LONGEST_NAME {
                return Err(format!("the name of the attribute \"{attribute}\" must have 1 to {LONGEST_NAME} bytes"));
            }
            if let Some((other, _)) = named().take(i).find(|(_, there)| *there == name) {
                return Err(format!(
                    "the attributes \"{other}\" and \"{attribute}\" would both be called \"{name}\"; choose another \
                     name for one of them"
                ));
            }
        }
        for attribute in Attribute::ALL {
            let (fixed, name) = (Self::of(self.schema), self.name(*attribute));
            if self.schema.fixes(*attribute) && name != fixed.name(*attribute) {
                return Err(format!(
                    "the clients of schema {} read the attribute \"{attribute}\" only as \"{}\"; do not rename it",
                    self.schema,
                    fixed.name(*attribute)
                ));
            }
            if !self.has(*attribute) && name != fixed.name(*attribute) {
                return Err(format!("schema {} has no attribute \"{attribute}\"", self.schema));
            }
        }
        match &self.sort {
            Some((_, value)) if value.is_empty() || value.len() > LONGEST_SORT_VALUE => {
                Err(format!("sort_value must have 1 to {LONGEST_SORT_VALUE} bytes"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(schema: Schema, attribute: Attribute, name: &str) -> Layout {
        let mut layout = Layout::of(schema);
        layout.rename(attribute, name.into());
        layout
    }

    #[test]
    fn default_names_of_every_schema_are_valid() {
        for &schema in Schema::ALL {
            Layout::of(schema).check().unwrap();
        }
    }

    #[test]
    fn renaming_an_attribute_changes_that_attribute() {
        for (place, attribute) in Attribute::ALL.iter().enumerate() {
            assert_eq!(*attribute as usize, place);
            assert_eq!(renamed(Schema::Native, *attribute, "x").name(*attribute), "x");
        }
    }

    #[test]
    fn native_attributes_can_be_renamed_but_not_alike() {
        for &attribute in Attribute::ALL.iter().filter(|attribute| **attribute != Attribute::Lease) {
            renamed(Schema::Native, attribute, "another").check().unwrap();
            let other = if attribute == Attribute::Owner { "version" } else { "owner" };
            let message = renamed(Schema::Native, attribute, other).check().unwrap_err();
            assert!(message.contains(attribute.as_str()) && message.contains("both be called"), "{message}");
        }
    }

    #[test]
    fn sort_key_is_checked_like_other_attributes() {
        let mut layout = Layout::of(Schema::Native);
        layout.sort = Some(("fence".into(), "-".into()));
        let message = layout.check().unwrap_err();
        assert!(message.contains("\"fence\" and \"sort_key\" would both be called \"fence\""), "{message}");
        for value in ["", &"x".repeat(1_025)] {
            layout.sort = Some(("sort".into(), value.into()));
            assert!(layout.check().unwrap_err().contains("sort_value"));
        }
    }

    #[test]
    fn attributes_of_foreign_clients_keep_their_names() {
        for (schema, attribute) in [
            (Schema::Java, Attribute::Version),
            (Schema::Go, Attribute::Released),
            (Schema::Python, Attribute::Lease),
            (Schema::Java, Attribute::Data),
        ] {
            let message = renamed(schema, attribute, "mine").check().unwrap_err();
            assert!(message.contains("do not rename it"), "{schema}: {message}");
        }
        renamed(Schema::Java, Attribute::Key, "id").check().unwrap();
        renamed(Schema::Go, Attribute::Expires, "mine").check().unwrap();
        renamed(Schema::Python, Attribute::Data, "mine").check().unwrap();
        // The foreign client's own name is taken too.
        renamed(Schema::Java, Attribute::Expires, "ownerName").check().unwrap_err();
    }

    #[test]
    fn invalid_names_and_unknown_attributes_are_refused() {
        for (layout, problem) in [
            (renamed(Schema::Native, Attribute::Fence, ""), "1 to 255 bytes"),
            (renamed(Schema::Native, Attribute::Fence, &"x".repeat(256)), "1 to 255 bytes"),
            (renamed(Schema::Native, Attribute::Lease, "x"), "schema native has no attribute \"lease\""),
            (renamed(Schema::Python, Attribute::Released, "x"), "schema python has no attribute \"released\""),
            (renamed(Schema::Java, Attribute::Fence, "x"), "schema java has no attribute \"fence\""),
        ] {
            let message = layout.check().unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }
}
