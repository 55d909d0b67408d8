//! The words and signs of an expression.

/// Words, signs, and quoted names with their opening quote.
pub(super) fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first == '"' {
            let (name, length) = quoted(&rest[1..])?;
            tokens.push(format!("\"{name}"));
            rest = rest[1 + length..].trim_start();
            continue;
        } else if rest.starts_with("<=") || rest.starts_with(">=") {
            2
        } else if "()=<>,?".contains(first) {
            1
        } else {
            let is_word = |c: char| c.is_alphanumeric() || "_#:.-[]".contains(c);
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            if length == 0 {
                return Err(format!("Syntax error; token: {first}"));
            }
            length
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A name up to its closing quote, and how long it is with that; two quotes stand for one.
fn quoted(text: &str) -> Result<(String, usize), String> {
    let mut name = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return Ok((name, at + 1)),
            c => name.push(c),
        }
    }
    Err("a quote is not closed".into())
}
