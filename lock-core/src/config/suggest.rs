//! Suggestions for misspelt words: "did you mean …?"

/// Returns the candidate nearest to `word`, if any is near enough. The case of `word` does not
/// matter.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let tolerated = (word.chars().count() / 3).clamp(1, 3);
    let ranked = candidates.into_iter().map(|candidate| (strsim::osa_distance(&word, candidate), candidate));
    ranked.filter(|(distance, candidate)| *distance <= tolerated && *distance < candidate.len()).min().map(|(_, c)| c)
}

/// Returns `; did you mean "x"?`, or an empty text if no candidate is near.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["ttl", "renew", "min_hold", "max_hold", "prefix"];
        for (word, near) in [
            ("tll", Some("ttl")),
            ("TTL", Some("ttl")),
            ("renw", Some("renew")),
            ("min-hold", Some("min_hold")),
            ("maxhold", Some("max_hold")),
            ("x", None),
            ("region", None),
        ] {
            assert_eq!(nearest(word, known), near, "{word}");
        }
    }
}
