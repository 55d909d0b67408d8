//! The native half of the Python package `onelock`: it holds no policy, and no native thread ever
//! attaches to Python. `python/onelock` is what users see.

mod answer;
mod background;
mod bell;
mod core;
mod engine;
mod errors;
mod events;
mod guard;
mod log;
mod op;
mod options;
mod sys;
mod testing;

use pyo3::prelude::*;

#[pymodule]
fn _onelock(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<core::Core>()?;
    module.add_class::<op::Op>()?;
    module.add_class::<guard::CoreGuard>()?;
    module.add_class::<bell::Bell>()?;
    module.add_class::<testing::TestStore>()?;
    module.add_function(wrap_pyfunction!(events::next_event, module)?)?;
    module.add_function(wrap_pyfunction!(engine::wait_idle, module)?)?;
    module.add_function(wrap_pyfunction!(events::close, module)?)?;
    module.add_function(wrap_pyfunction!(log::enable, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
