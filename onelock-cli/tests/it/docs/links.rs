//! Links within the project lead to a file and a heading, whether relative or to the repository.

use std::{collections::HashMap, path::Path};

use super::{all_pages, page, root};

/// The address of the project's files. READMEs that are crate documentation link to it, because
/// docs.rs cannot follow a relative link.
const BLOB: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/");

#[test]
fn every_internal_link_has_a_target() {
    let mut broken = Vec::new();
    for path in all_pages() {
        for (line, target) in links(&path) {
            let Some((file, anchor)) = destination(&path, &target) else { continue };
            if !root().join(&file).exists() {
                broken.push(format!("{path}:{line}: there is no {file}"));
            } else if !anchor.is_empty() && !anchors(&file).contains(&anchor) {
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
        let targets = links(&path).into_iter().filter_map(|(_, target)| destination(&path, &target));
        let files = targets.map(|(file, _)| file);
        let new: Vec<_> = files.filter(|t| t.ends_with(".md") && root().join(t).exists()).collect();
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

#[test]
fn a_link_to_the_repository_means_the_file_of_this_tree() {
    let address = |rest: &str| format!("{BLOB}{rest}");
    let found = destination("lock-efs/README.md", &address("docs/files.md#operations"));
    assert_eq!(found, Some(("docs/files.md".into(), "operations".into())));
    assert_eq!(found, destination("lock-efs/README.md", "../docs/files.md#operations"));
    assert_eq!(destination("README.md", "https://github.com/another/project/blob/main/README.md"), None);
    assert!(!anchors("docs/files.md").contains(&"no-such-heading".to_owned()));
}

/// The file and the heading that `target` means, which stands in the file `page`. `None` if it is
/// outside of the project, or an item's path, which rustdoc checks.
fn destination(page: &str, target: &str) -> Option<(String, String)> {
    let (page, target) = match target.strip_prefix(BLOB) {
        // Paths in the repository begin at its root.
        Some(path) => ("", path),
        None => (page, target),
    };
    if target.contains("://") || target.contains("::") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if file.is_empty() { page.to_owned() } else { resolve(page, file) };
    Some((file, anchor.to_owned()))
}

/// `target`, which stands in the file `page`, from the root.
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
