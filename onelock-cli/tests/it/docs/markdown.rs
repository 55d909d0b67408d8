//! Parses the part of Markdown that the pages use: fenced blocks, headings, links and tables.

/// One Markdown file.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The fenced blocks, in order.
    pub(crate) blocks: Vec<Block>,
    /// The lines outside of blocks and comments, with their numbers.
    pub(crate) prose: Vec<(usize, String)>,
}

/// A fenced block.
#[derive(Debug, Default, Clone)]
pub(crate) struct Block {
    /// The number of its first line in the file.
    pub(crate) line: usize,
    /// The text after the opening fence.
    pub(crate) language: String,
    pub(crate) text: String,
    /// The `<!-- first: … -->` before it: code to run before it, in the same language and hidden
    /// from readers.
    pub(crate) first: Option<String>,
    /// The `<!-- not run: … -->` before it: the reason why it cannot run on a bare machine.
    pub(crate) not_run: Option<String>,
}

impl Block {
    /// Whether the block is in a language that is run.
    pub(crate) fn is_run(&self) -> bool {
        ["console", "sh", "bash", "python"].contains(&self.language.as_str())
    }
}

impl Page {
    pub(crate) fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut next = Block::default();
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        while let Some((number, line)) = lines.next() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                let indent = line.len() - line.trim_start().len();
                let inside = lines.by_ref().take_while(|(_, line)| line.trim() != "```");
                let inside: Vec<_> = inside.map(|(_, line)| line.get(indent..).unwrap_or_default()).collect();
                next.line = number + 1;
                next.language = language.into();
                next.text = inside.join("\n");
                page.blocks.push(std::mem::take(&mut next));
            } else if line.starts_with("<!--") {
                let mut comment = line.to_owned();
                while !comment.contains("-->") {
                    let (_, more) = lines.next().unwrap_or_else(|| panic!("line {number}: the comment does not end"));
                    comment = comment + "\n" + more;
                }
                next.note(comment.trim_start_matches("<!--").trim_end().trim_end_matches("-->").trim(), number);
            } else {
                let waiting = next.first.is_some() || next.not_run.is_some();
                assert!(line.trim().is_empty() || !waiting, "line {number}: the comment before it belongs to no block");
                page.prose.push((number, line.to_owned()));
            }
        }
        page
    }

    /// Returns the headings of a level, without their marks.
    pub(crate) fn headings(&self, level: usize) -> impl Iterator<Item = &str> {
        let mark = "#".repeat(level) + " ";
        self.prose.iter().filter_map(move |(_, line)| line.strip_prefix(mark.as_str()))
    }

    /// Returns the rows of all tables whose first column has this title, as cells.
    pub(crate) fn rows(&self, title: &str) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut lines = self.prose.iter().map(|(_, line)| line.as_str());
        while let Some(line) = lines.next() {
            if line.starts_with('|') && cells(line).first().is_some_and(|cell| cell == title) {
                rows.extend(lines.by_ref().skip(1).take_while(|line| line.starts_with('|')).map(cells));
            }
        }
        rows
    }
}

impl Block {
    fn note(&mut self, comment: &str, line: usize) {
        if let Some(shell) = comment.strip_prefix("first:") {
            self.first = Some(shell.trim().into());
        } else if let Some(reason) = comment.strip_prefix("not run:") {
            let reason = reason.trim();
            assert!(reason.contains(' '), "line {line}: say in words why the block cannot run");
            self.not_run = Some(reason.into());
        }
    }
}

/// Returns the cells of a table's line; `\|` stands for `|` itself.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\0");
    line.split('|').map(|cell| cell.trim().replace('\0', "|")).collect()
}

/// Returns the `code` spans of a text.
pub(crate) fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\n<!-- first: a\nb -->\n\n```console\n$ x\n```\n<!-- not run: no account here \
        -->\n```sh\ny\n```\n\
        | option | |\n|---|---|\n| `a`, `b` | 1 \\| 2 |\n\nend\n";

    #[test]
    fn blocks_keep_their_comments_and_are_not_prose() {
        let page = Page::parse(TEXT);
        let blocks: Vec<_> = page.blocks.iter().map(|b| (b.line, b.language.as_str(), b.text.as_str())).collect();
        assert_eq!(blocks, [(7, "console", "$ x"), (11, "sh", "y")]);
        assert_eq!(page.blocks[0].first.as_deref(), Some("a\nb"));
        assert_eq!(page.blocks[1].not_run.as_deref(), Some("no account here"));
        assert_eq!(page.headings(1).collect::<Vec<_>>(), ["Title"]);
        assert!(page.prose.iter().all(|(_, line)| !line.contains('$')));
    }

    #[test]
    fn a_table_is_found_by_its_first_title() {
        let rows = Page::parse(TEXT).rows("option");
        assert_eq!(rows, [["`a`, `b`", "1 | 2"]]);
        assert_eq!(code(&rows[0][0]).collect::<Vec<_>>(), ["a", "b"]);
    }
}
