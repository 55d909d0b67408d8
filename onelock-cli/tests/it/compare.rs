//! Compares a program's output with a page, except for parts that differ between runs.

/// Compares line by line. On the page, `…` in a line stands for any text, and `…` alone on a line
/// for any lines.
pub(crate) fn matches(shown: &str, printed: &str) -> bool {
    let lines = |text: &str| text.lines().map(|line| steady(line.trim_end())).collect::<Vec<_>>();
    lines_match(&lines(shown), &lines(printed))
}

fn lines_match(shown: &[String], printed: &[String]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((any, rest)), _) if any == "…" => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        (Some(_), None) => false,
        (Some((first, shown)), Some((line, printed))) => line_matches(first, line) && lines_match(shown, printed),
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let Some((start, rest)) = shown.split_once('…') else { return shown == printed };
    let Some(printed) = printed.strip_prefix(start) else { return false };
    let ends = printed.char_indices().map(|(at, _)| at).chain([printed.len()]);
    ends.into_iter().any(|at| line_matches(rest, &printed[at..]))
}

/// Replaces times, ages, tokens, owners and ids by placeholders, so that a page can show real ones.
/// The columns of a table may be farther apart.
fn steady(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let line = line[..indent].to_owned() + &line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut steady = String::new();
    let mut rest = &*line;
    while let Some(start) = rest.find(is_word) {
        steady.push_str(&rest[..start]);
        let word = &rest[start..];
        let word = &word[..word.find(|c| !is_word(c)).unwrap_or(word.len())];
        let word = word.trim_end_matches(['.', ':', ',', '-']);
        let word = if word.is_empty() { &rest[start..=start] } else { word };
        rest = &rest[start + word.len()..];
        steady.push_str(&sign(word, rest));
    }
    steady + rest
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".:-_+".contains(c)
}

fn sign(word: &str, behind: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let hex = |text: &str| text.len() >= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_owner = || {
        let (_, process) = word.split_once(':')?;
        let (pid, random) = process.split_once('-')?;
        Some(digits(pid) && hex(random))
    };
    let is_age = || word.strip_suffix(['s', 'm', 'h', 'd']).is_some_and(digits);
    let is_time = || word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    if is_owner() == Some(true) {
        "OWNER".into()
    } else if is_time() {
        "TIME".into()
    } else if is_age() {
        "AGE".into()
    } else if word.len() >= 10 && word.split('.').all(digits) {
        "NUMBER".into()
    } else if word.len() >= 16 && word.split(['-', ':']).all(|part| part.bytes().all(|b| b.is_ascii_hexdigit())) {
        "ID".into()
    } else if word.parse::<f64>().is_ok() && behind.strip_prefix(" s").is_some_and(|b| !b.starts_with(is_word)) {
        "SOME".into()
    } else {
        word.into()
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn parts_that_differ_between_runs_are_ignored() {
        for (shown, printed) in [
            ("x is held by etl-7:4711-5be6a2c1 for 12 s", "x is held by ip.a:9-00aa11bb22 for 0 s"),
            ("token 1795336643572173, expires", "token 1800000000000000, expires"),
            ("version 0f2c1a9b8d7e6f50", "version aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            ("since 2026-11-29T08:49:36Z, 3s ago", "since 2026-11-30T09:50:37Z, 12s ago"),
            ("a\n…\nz", "a\nb\nc\nz"),
            ("a… z", "a, b and z"),
            ("x  etl-7:4711-5be6a2c1  12s  sleep", "x  ip.a:9-00aa11bb22    0s   sleep"),
        ] {
            assert!(matches(shown, printed), "{shown} / {printed}");
        }
    }

    #[test]
    fn every_other_difference_is_reported() {
        for (shown, printed) in [
            ("exit code 1", "exit code 0"),
            ("x is held by etl-7:4711-5be6a2c1", "x is held by another client"),
            ("token 1795336643572173", "token none"),
            ("a", "a\nb"),
            ("a\nb", "a"),
            ("a … z", "a, b"),
            ("held for 12 s", "held for 12 min"),
        ] {
            assert!(!matches(shown, printed), "{shown} / {printed}");
        }
    }
}
