//! The pictures are those of their generator, and the pages build as a site with search.

use std::{fs, process::Command};

use test_support::python::python;

use super::{files_below, root, text};

#[test]
fn committed_pictures_are_those_of_the_generator() {
    let check = Command::new("python3").arg(root().join("docs/pictures/draw")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn pictures_of_other_figures_are_refused() {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("pictures")).unwrap();
    for file in ["draw", "speed-redis-light.svg", "speed-redis-dark.svg"] {
        fs::copy(root().join("docs/pictures").join(file), copy.path().join("pictures").join(file)).unwrap();
    }
    let page = text("docs/performance.md");
    let (before, after) = page.split_once("\n| onelock | ").unwrap();
    fs::write(copy.path().join("performance.md"), format!("{before}\n| onelock | 1{after}")).unwrap();
    let check = Command::new("python3").arg(copy.path().join("pictures/draw")).arg("--check").output().unwrap();
    let message = String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && message.contains("speed-redis-light.svg"), "{message}");
}

#[test]
fn every_picture_is_shown_in_both_colours() {
    let pages = files_below(&root().join("docs"), "md").iter().map(|path| text(path)).collect::<String>();
    let pictures = files_below(&root().join("docs/pictures"), "svg");
    assert!(pictures.len() >= 8, "{pictures:?}");
    for picture in &pictures {
        let name = picture.strip_prefix("docs/").unwrap();
        assert!(pages.contains(&format!("\"{name}\"")), "no page shows {name}");
    }
    for shown in pages.split("\"pictures/").skip(1) {
        let picture = format!("docs/pictures/{}", shown.split('"').next().unwrap());
        assert!(pictures.contains(&picture), "there is no {picture}");
    }
}

#[test]
fn pages_build_as_a_site_with_search() {
    let site = tempfile::tempdir().unwrap();
    let mut mkdocs = Command::new(python());
    mkdocs.args(["-m", "mkdocs", "build", "--strict", "--site-dir"]).arg(site.path()).current_dir(root());
    let built = mkdocs.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let read =
        |name: &str| fs::read_to_string(site.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read("search/search_index.json").contains("fencing token"));
    assert!(site.path().join("pictures/lease-dark.svg").exists());
    let page = read("start.html");
    assert!(!page.contains("<!-- first"), "the set-up of the tests is no text for readers");
    assert!(!page.contains("href=\"../"), "a link leaves the site");
}
