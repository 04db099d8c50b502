//! Runs when the component is instantiated: `wit-component` calls an exported `_initialize` from a start function.
#![allow(unsafe_code, reason = "the export needs a fixed symbol")]

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    let mut count = 0_u64;
    while std::hint::black_box(count) < u64::MAX {
        count += 1;
    }
}
