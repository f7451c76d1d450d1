// Every op of the package. Stable ABI only; implementations are registered in <device>_*.cpp and
// bound_step.cpp.
//
// Shapes (docs/conventions.md): W lanes, C = tiles * W padded channels, R rows of one call.
//   u, pre, post, y (R, D)             io type; last dimension contiguous
//   ring      (layers, B, tiles, slots, W)
//   open_block (layers, B, tiles, T_0, W), float32: of a ring in 16 bits, the slots of the T_0
//             positions that each row is in; no slots where the ring holds the state's dtype
//   kept      (layers, B, tiles, rows, 2, W)
//   taps      (layers, filter tiles, T_0, W or 1)
//   spectra   (layers, filter tiles, rows, 2, W or 1)
//   filters   (layers, G, D / G, L), all taps, of stride 0 in D / G; the dtype of ring or bfloat16
//   skip      (layers, C)
//   positions (B,) int64, rows (R,) int64, -1 marks a padding row
//   token_at  (layers, B) int64; undo (layers, B, tiles, undo slots, W), position p in slot
//             p % undo slots; history (layers, B, W) (state/tensors.py)
//   work      (B, side by side, rows, 2, W), the CPU's transforms of levels with slack under way
//   filled    (B,) int64, the position up to which the fills of a row have run, on the CPU
//   images    (layers, B, tiles, rows, W), what the newest firings changed as it was before them
//   levels    (n, 14) int64 on the CPU whatever the device, smallest block first: block, radix,
//             transform, n_spectra, kept_offset, spectra_offset, late, steps, extra, work_offset,
//             direct, images_offset, images, made (LevelRow in levels.h, state/tensors.py). length
//             is that of the plan, index a row of levels
//   channels_per_filter  D / G; on the CPU 1 where the layout stores a filter for every channel
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(futurefill_kernels, m) {
  // a token of all layers on a GPU before its input is known: its position, its pending output,
  // and that with what the block's older inputs add
  m.def(
      "history(Tensor ring, Tensor open_block, Tensor taps, Tensor positions, Tensor? rows, "
      "Tensor(a!) token_at, Tensor(b!) undo, Tensor(c!) history, int channels_per_filter) -> ()");
  // one layer of that token; with `advance` the rows' positions move on
  m.def(
      "apply_step(Tensor u, Tensor? pre, Tensor? post, Tensor(a!) y, Tensor(b!) ring, "
      "Tensor(o!) open_block, Tensor taps, Tensor? skip, Tensor history, Tensor token_at, "
      "Tensor(c!) positions, Tensor? rows, int layer, bool advance, int channels_per_filter) -> "
      "()");
  // the fill of a level of all layers, of channels first_channel .. last_channel - 1: on the CPU
  // all of them, of a plain level
  m.def(
      "future_fill(Tensor(a!) ring, "
      "Tensor(o!) open_block, Tensor(b!) kept, Tensor spectra, Tensor positions, "
      "Tensor? rows, Tensor levels, int length, int index, int first_channel, int last_channel, "
      "int channels_per_filter) -> ()");
  // the same on a GPU with filter and kept spectra in tiles (implementations/cuda_early.py)
  m.def(
      "early_fill(Tensor(a!) ring, Tensor(o!) open_block, Tensor(b!) kept, Tensor spectra, "
      "Tensor positions, Tensor? rows, Tensor levels, int length, int index, int first_channel, "
      "int last_channel, "
      "int channels_per_filter) -> ()");
  // a part of it in three passes over scratch (layers, R, n, width, 2), on a GPU: of layers
  // first_layer.. and channels first_channel... twist (n, 2): of coefficient k of node s at
  // s n / nodes + k
  m.def(
      "long_fill(Tensor(a!) scratch, Tensor(b!) ring, Tensor(o!) open_block, Tensor(c!) kept, "
      "Tensor spectra, Tensor positions, Tensor? rows, Tensor twist, Tensor levels, int length, "
      "int index, int first_layer, int first_channel, int channels_per_filter) -> ()");
  // the fill of a level that makes its spectra of the filters, on the CPU
  m.def(
      "made_fill(Tensor(a!) ring, "
      "Tensor(o!) open_block, Tensor(b!) kept, Tensor spectra, Tensor filters, "
      "Tensor positions, Tensor? rows, Tensor levels, int length, int index) -> ()");
  // of a firing of a level with slack, the shares of steps begin .. end - 1. On the CPU, where a
  // share is some stages of all transforms, which live in work; on a GPU it is some channels
  m.def(
      "fill_share(Tensor(a!) ring, "
      "Tensor(o!) open_block, Tensor(b!) kept, Tensor(c!) work, Tensor spectra, "
      "Tensor positions, Tensor? rows, Tensor levels, int length, int index, int begin, int end) "
      "-> ()");
  // around a prompt's transforms, on a GPU. u, pre, post, y (R, C, P); x (R, C, n >= P) and held
  // (R, C, P) float32 become u pre, zero from each row's length on
  m.def(
      "prefill_inputs(Tensor u, Tensor? pre, Tensor? lengths, Tensor(a!) x, Tensor(b!)? held) "
      "-> ()");
  // z (R, C, n) float32, the convolution from each row's start: y = post (z + skip u pre) from
  // position starts (default 0) on; what follows ends goes to ring, to channels first_channel.. of
  // batch row rows, as many positions as it has slots, or prompt_fill (layers, B, 1, N, W), which
  // gets the same
  m.def(
      "prefill_outputs(Tensor z, Tensor u, Tensor? pre, Tensor? post, Tensor? skip, Tensor(a!) y, "
      "Tensor(b!)? prompt_fill, Tensor(c!) ring, Tensor rows, Tensor? starts, Tensor ends, "
      "int layer, int first_channel) -> ()");
  // what is due of fills at the rows' positions and has not run, of all layers; on the CPU
  m.def(
      "due_fills(Tensor(a!) ring, "
      "Tensor(o!) open_block, Tensor(b!) kept, Tensor(c!) work, Tensor spectra, "
      "Tensor filters, Tensor positions, Tensor levels, int length, Tensor(d!) filled, Tensor(e!) "
      "images) -> ()");
  // one token of one layer, before that of layer 0 the fills that are due of all layers, which
  // leave before-images where there is room for them; on the CPU
  m.def(
      "step(Tensor u, Tensor? pre, Tensor? post, Tensor(a!) y, Tensor(b!) ring, "
      "Tensor(o!) open_block, Tensor taps, "
      "Tensor? skip, Tensor(c!) positions, Tensor? rows, int layer, bool advance, "
      "Tensor(d!) kept, Tensor(e!) work, Tensor spectra, Tensor filters, Tensor levels, "
      "int length, Tensor(f!) undo, Tensor(g!) token_at, Tensor(h!) filled, Tensor(i!) images) -> "
      "()");
  // n steps of one layer that feed on themselves: u_{t+1} = y_t. y: (n, B, D)
  m.def(
      "generate(Tensor u, Tensor(a!) y, Tensor(b!) ring, "
      "Tensor(o!) open_block, Tensor taps, Tensor? skip, "
      "Tensor(c!) positions, Tensor(d!) kept, Tensor(e!) work, Tensor spectra, Tensor filters, "
      "Tensor levels, int length, Tensor(f!) filled, Tensor(g!) images) -> ()");
  // Checks a stream once for futurefill_step (bound_step.h), which a decoding loop calls without
  // the dispatcher; returns its address. The tensors must outlive it.
  m.def(
      "bind(Tensor(a!) ring, "
      "Tensor(o!) open_block, Tensor taps, Tensor? skip, Tensor(b!) positions, Tensor(c!) kept, "
      "Tensor(d!) work, Tensor spectra, Tensor filters, Tensor levels, int length, Tensor(e!) "
      "undo, "
      "Tensor(f!) token_at, Tensor(g!) filled, Tensor(h!) images, int channels, Tensor like) "
      "-> int");
  m.def("unbind(int stream) -> ()");
  // outputs start .. stop-1 of whole sequences. u (B, D, P) or, in tiles, (B, tiles, P, W), h (G,
  // L), y (B, D, stop - start); spectra (tiles, blocks of taps, (block + work_gaps) 2 W), those of
  // h if made, else written
  m.def(
      "offline_conv(Tensor u, Tensor h, Tensor(a!) y, int start, int stop, int block, "
      "Tensor(b!)? spectra=None, bool made=False) -> ()");
  // a prompt in many calls (engine.h): the spectrum H_k (tiles, values) of h (G, L); inputs u (R,
  // D, n) of one block at `position` with their outputs y; what the blocks before it add to the
  // block at `position`; what the first block adds to the next. slots (R, tiles, room, W), spectra
  // (tiles, m, values), kept (R, tiles, n, values), sums (R, tiles)
  m.def("prompt_spectrum(Tensor h, Tensor(a!) spectrum, int channels, int block, int k) -> ()");
  m.def(
      "prompt_block(Tensor u, Tensor(a!) y, Tensor(b!) slots, Tensor spectra, Tensor(c!) kept, "
      "Tensor(d!) sums, int position, int block, int newest, int blocks) -> ()");
  m.def(
      "prompt_fill(Tensor(a!) slots, Tensor spectra, Tensor(b!) kept, int channels, int position, "
      "int block, int blocks) -> ()");
  m.def("prompt_first_fill(Tensor(a!) slots, Tensor h, int channels, int block) -> ()");
  // the layers of one token of a model, or some (nn/token/program.py writes the program). program
  // (n, 11) int64, ids (R, 1) int64, rows of the batch (R,) int64 or None: as they come; weights,
  // scratch and io flat; progress (1,) int64, one more for each instruction that has run. Streams
  // that the program steps (op "bind") move on as by the op "step".
  m.def(
      "token(Tensor program, Tensor ids, Tensor? rows, Tensor weights, Tensor(a!) scratch, "
      "Tensor(b!) io, Tensor(c!) progress) -> ()");
  m.def("dense_panel(bool float64) -> int");  // outputs per panel of packed weights
  // instruction set of the CPU engine and its lanes for float32 and float64 state
  m.def("cpu_lanes(bool float64) -> int");
  m.def("tile_lanes(bool float64, int channels) -> int");
  m.def("cpu_isa() -> str");
  // what plans for the engine need of it: threads, of those available, for a float32 step of one
  // layer and for a fill of all layers; rows that a transform under way may take beyond its length
  m.def("step_threads(int rows, int channels, int block, int available) -> int");
  m.def("fill_threads(int layers, int rows, int channels, int block, int available) -> int");
  m.def("work_gaps() -> int");
  // twiddles and the memory of threads in which fills of these levels work: its bytes, and
  // allocate it. jobs: tiles of all layers
  m.def(
      "scratch_nbytes(Tensor levels, int batch_size, int jobs, int lanes, bool float64, "
      "bool narrow) -> int");
  m.def(
      "reserve_scratch(Tensor levels, int batch_size, int jobs, int lanes, bool float64, "
      "bool narrow) -> ()");
  // GPU code in the binary, as "sm_80, ... and PTX of sm_120"
  m.def("cuda_architectures() -> str");
}
