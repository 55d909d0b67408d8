//! The one kind of PartiQL statement that locks need: an update of one item under a condition.

use serde_json::Value;

use super::{
    Write,
    expression::{Parser, Update},
};

/// Reads `UPDATE "table" SET "a" = ? REMOVE "b" WHERE condition`.
pub(super) fn parse(statement: &Value) -> Result<Write, String> {
    let parameters = statement["Parameters"].as_array().map_or(&[][..], |parameters| parameters);
    let mut parser = Parser::new(statement["Statement"].as_str().unwrap_or_default(), None, parameters)?;
    parser.expect("UPDATE")?;
    parser.name()?;
    let mut update = Update::default();
    while !parser.takes("WHERE") {
        if parser.takes("SET") {
            update.set.push(parser.assignment()?);
        } else {
            parser.expect("REMOVE")?;
            update.remove.push(parser.name()?);
        }
    }
    let condition = parser.any()?;
    parser.end()?;
    Ok(Write { update, condition })
}
