//! The pages of the documentation, whose Rust code is compiled and run as documentation tests.

macro_rules! pages {
    ($($name:ident = $path:literal;)*) => {
        $(
            #[doc = include_str!($path)]
            struct $name;
        )*
    };
}

pages! {
    Readme = "../../README.md";
    ConfigStrings = "../../docs/config-strings.md";
    Fencing = "../../docs/fencing.md";
    Files = "../../docs/files.md";
    Memory = "../../docs/memory.md";
    Modes = "../../docs/modes.md";
    Moving = "../../docs/moving.md";
    Testing = "../../docs/testing.md";
    WhichStore = "../../docs/which-store.md";
}
