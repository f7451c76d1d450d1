// What csrc/cuda's launchers would launch, as JSON: the launch shapes compiled for the emulator.
//
// Tensors come as rows of int64 {address, sizes[6], strides[6]}, address 0 for none, in the order
// of the op's arguments; so no struct is known outside of csrc/cuda.
#include <sstream>
#include <string>

#include "launch_shape.h"
#include "state_params.h"

namespace {

using namespace futurefill::cuda;

struct TensorRow {
  int64_t address, sizes[6], strides[6];

  template <class T>
  T* at() const {
    return reinterpret_cast<T*>(address);
  }
  Strides signal() const { return {strides[0], strides[1]}; }
};

struct StateRow {
  TensorRow ring, open_block, kept, spectra, taps, skip, positions, token_at, undo, history;
  int64_t stored;  // of the ring, an IoType

  State state(int64_t channels_per_filter, int64_t length) const {
    State s{};
    s.ring = ring.at<void>(), s.stored = IoType(stored);
    s.open_block = open_block.at<float>(), s.open_slots = open_block.sizes[3];
    s.kept = kept.at<float>(), s.spectra = spectra.at<float>();
    s.taps = taps.at<float>(), s.skip = skip.at<float>(), s.positions = positions.at<int64_t>();
    s.token_at = token_at.at<int64_t>();
    s.undo = undo.at<float>(), s.undo_slots = undo.sizes[3], s.history = history.at<float>();
    s.layers = ring.sizes[0], s.batch = ring.sizes[1];
    s.slots = ring.sizes[3], s.lanes = ring.sizes[4];
    s.kept_rows = kept.sizes[3];
    s.spectra_rows = spectra.sizes[2], s.filter_lanes = spectra.sizes[4];
    s.n_taps = taps.sizes[2];
    s.channels_per_filter = channels_per_filter;
    s.length = length;
    return s;
  }
};

std::ostream& operator<<(std::ostream& out, const LaunchShape& shape) {
  return out << "\"grid\": [" << shape.grid[0] << ", " << shape.grid[1] << ", " << shape.grid[2]
             << "], \"threads\": " << shape.threads << ", \"shared\": " << shape.shared;
}

// A pointer is its address, a struct the hexadecimal digits of its bytes.
template <class T>
void write_argument(std::ostream& out, const T& argument) {
  if constexpr (std::is_pointer_v<T>) {
    out << reinterpret_cast<intptr_t>(argument);
  } else {
    out << '"';
    for (size_t i = 0; i < sizeof(T); ++i) {
      const int byte = reinterpret_cast<const unsigned char*>(&argument)[i];
      out << "0123456789abcdef"[byte / 16] << "0123456789abcdef"[byte % 16];
    }
    out << '"';
  }
}

std::string json;

template <class... Arguments>
const char* write(const char* file, const std::string& kernel, const LaunchShape& shape,
                  const std::tuple<Arguments...>& arguments) {
  std::ostringstream out;
  out << "{\"file\": \"" << file << "\", \"kernel\": \"" << kernel << "\", " << shape
      << ", \"arguments\": [";
  std::apply(
      [&](const Arguments&... argument) {
        const char* comma = "";
        ((out << comma, comma = ", ", write_argument(out, argument)), ...);
      },
      arguments);
  json = (out << "]}", out.str());
  return json.c_str();
}

std::string io_name(IoType io) { return "IoOf<IoType(" + std::to_string(int(io)) + ")>"; }

const char* write_config(const FillConfig& c) {
  std::ostringstream out;
  out << "{\"points\": " << c.points << ", \"middle\": " << c.middle << ", \"last\": " << c.last
      << ", \"channels\": " << c.channels << ", \"min_blocks\": " << c.min_blocks
      << ", \"split\": " << c.split << ", \"units\": " << c.units << ", \"staged\": " << c.staged
      << ", \"group\": " << c.group() << ", \"width\": " << c.width()
      << ", \"threads\": " << c.threads() << ", \"shared_bytes\": " << c.shared_bytes() << "}";
  json = out.str();
  return json.c_str();
}

Level level_of(const int64_t* n) { return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}; }

Rows rows_of(const TensorRow& rows, int64_t all) {
  return {rows.at<int64_t>(), rows.address ? rows.sizes[0] : all};
}

}  // namespace

extern "C" {

// level: block, transform, radix, spectra, offsets into kept and spectra, late, extra.
const char* future_fill(const StateRow* state, const TensorRow* rows, const int64_t* level,
                        int64_t channels_per_filter, int64_t length, int64_t first, int64_t last,
                        int64_t memory) {
  const State s = state->state(channels_per_filter, length);
  const FillParams p = fill_params(s, level_of(level), rows_of(*rows, s.batch), first, last);
  const char* result = nullptr;
  choose_fill(p.shape, Memory(memory), [&](auto config) {
    const std::string kernel = "future_fill<ConfigOf<" + std::to_string(config.transform) + ", " +
                               std::to_string(config.memory) + (config.whole ? ">>" : ", false>>");
    result = write("future_fill.cuh", kernel, fill_launch(p, config.value), fill_arguments(p));
  });
  return result;
}

const char* early_fill(const StateRow* state, const TensorRow* rows, const int64_t* level,
                       int64_t channels_per_filter, int64_t length, int64_t first, int64_t last,
                       int64_t memory) {
  const State s = state->state(channels_per_filter, length);
  const FillParams p = fill_params(s, level_of(level), rows_of(*rows, s.batch), first, last);
  const char* result = nullptr;
  choose_early(p.shape, Memory(memory), [&](auto config) {
    const std::string kernel = "future_fill<ConfigOf<" + std::to_string(config.transform) + ", " +
                               std::to_string(config.memory) + ", true, true>>";
    result = write("future_fill.cuh", kernel, fill_launch(p, config.value), fill_arguments(p));
  });
  return result;
}

// One of the three passes. tensors: scratch, twist, rows.
const char* long_fill(const StateRow* state, const TensorRow* tensors, const int64_t* level,
                      int64_t channels_per_filter, int64_t length, int64_t layer, int64_t first,
                      int64_t memory, int64_t pass) {
  const State s = state->state(channels_per_filter, length);
  const TensorRow& scratch = tensors[0];
  const LongFillParams p =
      long_fill_params(s, level_of(level), rows_of(tensors[2], s.batch), layer, scratch.sizes[0],
                       first, first + scratch.sizes[3], scratch.at<void>(), tensors[1].at<void>());
  const int64_t transform = p.fill.shape.transform;
  const char* result = nullptr;
  if (pass == 1) {
    choose_node(transform, Memory(memory), [&](auto config) {
      const std::string kernel = "transform_nodes<NodesOf<" + std::to_string(config.points) + ", " +
                                 std::to_string(config.memory) + ">>";
      result = write("long_fill.cuh", kernel, nodes_launch(p, config.value), nodes_arguments(p));
    });
  } else {
    choose_nodes(transform, [&](auto nodes) {
      const std::string kernel = (pass ? "merge_block<" : "split_block<") + std::to_string(nodes);
      result = write("long_fill.cuh", kernel + ">", outer_launch(p, nodes), outer_arguments(p));
    });
  }
  return result;
}

const char* history(const StateRow* state, const TensorRow* rows, int64_t channels_per_filter,
                    int64_t length) {
  const State s = state->state(channels_per_filter, length);
  const HistoryParams p = history_params(s, rows_of(*rows, s.batch));
  const char* result = nullptr;
  choose_history(p, [&](auto rows, auto vectors, auto unroll, auto shared) {
    std::ostringstream kernel;
    kernel << "history<" << rows << ", " << vectors << ", " << unroll << ", "
           << (shared ? "true" : "false") << ">";
    result = write("history.cuh", kernel.str(), history_launch(p), history_arguments(p));
  });
  return result;
}

// tensors: u, pre, post, y (rows, channels), rows.
const char* apply_step(const StateRow* state, const TensorRow* tensors, int64_t io,
                       int64_t channels_per_filter, int64_t length, int64_t layer,
                       int64_t advance) {
  const State s = state->state(channels_per_filter, length);
  const TensorRow &u = tensors[0], &pre = tensors[1], &post = tensors[2], &y = tensors[3];
  const Tokens tokens{u.at<void>(),   pre.at<void>(),  post.at<void>(), y.at<void>(), u.strides[0],
                      pre.strides[0], post.strides[0], y.strides[0],    u.sizes[1],   IoType(io)};
  const Rows rows = rows_of(tensors[4], u.sizes[0]);
  const ApplyParams p = apply_params(s, tokens, rows, layer, advance != 0);
  const char* result = nullptr;
  choose_apply(p, [&](auto io, auto vector) {
    const std::string kernel = "apply_step<" + io_name(io) + ", " + std::to_string(vector) + ">";
    result = write("apply_step.cuh", kernel, apply_launch(p), apply_arguments(p));
  });
  return result;
}

// tensors: u, pre (rows, channels, positions), lengths, x, held.
const char* prefill_inputs(const TensorRow* tensors, int64_t io) {
  const TensorRow &u = tensors[0], &pre = tensors[1], &x = tensors[3], &held = tensors[4];
  InputsParams p{};
  p.u = u.at<void>(), p.pre = pre.at<void>(), p.lengths = tensors[2].at<int64_t>();
  p.x = x.at<float>(), p.held = held.at<float>();
  p.u_at = u.signal(), p.pre_at = pre.signal(), p.x_at = x.signal(), p.held_at = held.signal();
  p.io = IoType(io);
  p.shape = {u.sizes[2], x.sizes[2], u.sizes[1], u.sizes[0]};
  const char* result = nullptr;
  choose_io(p.io, [&](auto io) {
    result = write("prefill.cuh", "prefill_inputs<" + io_name(io) + ">", inputs_launch(p.shape),
                   inputs_arguments(p));
  });
  return result;
}

// tensors: z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends.
const char* prefill_outputs(const TensorRow* tensors, int64_t io, int64_t stored, int64_t layer,
                            int64_t first) {
  const TensorRow &u = tensors[1], &fill = tensors[6], &ring = tensors[7];
  OutputsParams p{};
  p.z = tensors[0].at<float>(), p.u = u.at<void>();
  p.pre = tensors[2].at<void>(), p.post = tensors[3].at<void>();
  p.skip = tensors[4].at<float>(), p.y = tensors[5].at<void>();
  p.prompt_fill = fill.at<void>(), p.ring = ring.at<void>();
  p.rows = tensors[8].at<int64_t>(), p.starts = tensors[9].at<int64_t>();
  p.ends = tensors[10].at<int64_t>();
  p.z_at = tensors[0].signal(), p.u_at = u.signal(), p.pre_at = tensors[2].signal();
  p.post_at = tensors[3].signal(), p.y_at = tensors[5].signal();
  p.io = IoType(io);
  const int64_t length = p.prompt_fill ? fill.sizes[3] : ring.sizes[3];
  p.shape = {u.sizes[2],    length,     ring.sizes[3], ring.sizes[4],
             ring.sizes[1], u.sizes[1], u.sizes[0],    IoType(stored)};
  p = at_layer(p, layer, first);
  const char* result = nullptr;
  choose_io(p.io, [&](auto io) {
    result = write("prefill.cuh", "prefill_outputs<" + io_name(io) + ">", outputs_launch(p),
                   outputs_arguments(p));
  });
  return result;
}

const char* fill_configuration(int64_t block, int64_t memory) {
  return write_config(fill_config(int(block), int(memory)));
}

const char* node_configuration(int64_t points, int64_t memory) {
  return write_config(node_config(int(points), int(memory)));
}

int64_t least_memory(int64_t block, int64_t memory) {
  return config_memory(int(block), int(memory));
}

int64_t least_node_memory(int64_t points, int64_t memory) {
  return node_memory(int(points), int(memory));
}

int64_t memory_of_bytes(int64_t bytes) { return memory_of(bytes); }

}  // extern "C"
