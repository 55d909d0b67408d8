//! Checks the links within the project.

use std::{collections::HashMap, path::Path};

use super::{all_pages, page, root};

#[test]
fn every_internal_link_has_a_target() {
    let mut broken = Vec::new();
    for path in all_pages() {
        for (line, target) in links(&path) {
            // External links are not checked, and rustdoc checks its own.
            if target.contains("://") || target.contains("::") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() { path.clone() } else { resolve(&path, file) };
            if !root().join(&file).exists() {
                broken.push(format!("{path}:{line}: there is no {file}"));
            } else if !anchor.is_empty() && !anchors(&file).contains(&anchor.to_owned()) {
                broken.push(format!("{path}:{line}: {file} has no heading #{anchor}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_is_reachable_from_the_readme() {
    let mut reached = vec!["README.md".to_owned()];
    let mut next = 0;
    while let Some(path) = reached.get(next).cloned() {
        let targets =
            links(&path).into_iter().map(|(_, target)| resolve(&path, target.split('#').next().unwrap_or("")));
        let new: Vec<_> = targets.filter(|t| t.ends_with(".md") && root().join(t).exists()).collect();
        reached.extend(new.into_iter().filter(|t| !reached.contains(t)).collect::<Vec<_>>());
        reached.dedup();
        next += 1;
    }
    let lost: Vec<_> = all_pages().into_iter().filter(|p| p.starts_with("docs/") && !reached.contains(p)).collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
}

/// Returns the targets of a page's links, with their lines.
fn links(path: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in page(path).prose {
        // Text in code is no link.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        for behind in plain.split("](").skip(1) {
            let target = behind.split([')', ' ']).next().unwrap_or_default();
            links.push((number, target.to_owned()));
        }
    }
    links
}

/// Resolves `target`, as written in the file `page`, to a path from the root.
fn resolve(page: &str, target: &str) -> String {
    let mut parts: Vec<_> = Path::new(page).parent().into_iter().flat_map(Path::iter).collect();
    for part in Path::new(target) {
        match part.to_str() {
            Some("..") => parts.truncate(parts.len().saturating_sub(1)),
            _ => parts.push(part),
        }
    }
    parts.iter().collect::<std::path::PathBuf>().display().to_string()
}

/// Returns the anchors of a page's headings, as GitHub generates them.
fn anchors(path: &str) -> Vec<String> {
    if !path.ends_with(".md") {
        return Vec::new();
    }
    let page = page(path);
    let mut seen: HashMap<String, usize> = HashMap::new();
    let headings = (1..=6).flat_map(|level| page.headings(level));
    headings
        .map(|heading| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let slug = kept.collect::<String>().to_lowercase().replace(' ', "-");
            let before = seen.entry(slug.clone()).or_default();
            *before += 1;
            if *before == 1 { slug } else { format!("{slug}-{}", *before - 1) }
        })
        .collect()
}
