//! A component written instruction by instruction: what no compiler would make.

use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, HeapType, MemorySection, MemoryType, Module,
    RefType, TableSection, TableType, TypeSection, ValType,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::guest::root;

/// A policy without imports whose `evaluate` grows a table of `initial` elements by `step`, for ever. Its `describe` says nothing.
pub fn policy_that_grows_a_table(initial: u64, step: i32) -> Vec<u8> {
    let mut module = policy(initial, step).finish();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root().join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some("policy")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

fn policy(initial: u64, step: i32) -> Module {
    let mut types = TypeSection::new();
    types.ty().function([], [ValType::I32]);
    types.ty().function([ValType::I32], [ValType::I32]);
    types.ty().function([ValType::I32; 4], [ValType::I32]);
    let mut functions = FunctionSection::new();
    functions.function(0).function(1).function(2);
    let mut tables = TableSection::new();
    let element_type = RefType::FUNCREF;
    tables.table(TableType { element_type, table64: false, minimum: initial, maximum: None, shared: false });
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 2, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("describe", ExportKind::Func, 0);
    exports.export("evaluate", ExportKind::Func, 1);
    exports.export("cabi_realloc", ExportKind::Func, 2);

    // An empty string and an empty list: memory begins as zeros.
    let mut describe = Function::new([]);
    describe.instructions().i32_const(1024).end();
    let mut evaluate = Function::new([]);
    evaluate
        .instructions()
        .loop_(wasm_encoder::BlockType::Empty)
        .ref_null(HeapType::FUNC)
        .i32_const(step)
        .table_grow(0)
        .drop()
        .br(0)
        .end()
        .unreachable()
        .end();
    // Every allocation is the second page: nobody reads the arguments.
    let mut realloc = Function::new([]);
    realloc.instructions().i32_const(65536).end();
    let mut code = CodeSection::new();
    code.function(&describe).function(&evaluate).function(&realloc);

    let mut module = Module::new();
    module.section(&types).section(&functions).section(&tables).section(&memories).section(&exports).section(&code);
    module
}
