"""Which kernels the launchers choose and with which grids; needs only a C++ compiler."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations import cuda
from futurefill_kernels.plan import Plan
from tests.emulation import launch_shapes
from tests.emulation.cuda_compile import SOURCES
from tests.emulation.cuda_rig import make_state

pytestmark = pytest.mark.skipif(not SOURCES.exists(), reason="not run from a source tree")


def state_of(plan: Plan, channels: int, batch: int = 1, layers: int = 1):
    return make_state([torch.ones(channels, plan.length)] * layers, plan, batch)


@pytest.mark.parametrize(
    ("kilobytes", "memory"), [(64, 0), (100, 0), (163, 0), (164, 1), (227, 1), (228, 2), (256, 2)]
)
def test_memory_of_a_device(kilobytes, memory):
    assert launch_shapes.memory_of(kilobytes << 10) == memory


@pytest.mark.parametrize("block", [2**k for k in range(14)])
def test_every_block_size_has_a_fill(block):
    plan = Plan(2 * block, (block,))
    state = state_of(plan, 33, batch=3, layers=2)
    for memory in range(3):
        launch = launch_shapes.future_fill(state, plan.levels[0], None, 0, 64, memory)
        config = launch_shapes.fill_config(block, memory)
        least = launch_shapes.least_memory(block, memory)
        assert launch.kernel == f"future_fill<ConfigOf<{block}, {least}>>"
        assert launch_shapes.fill_config(block, least) == config
        assert launch.threads == config.threads <= 1024
        assert launch.shared == config.shared_bytes <= (99, 163, 227)[memory] << 10
        assert launch.grid[1:] == (3, 2)
        # every channel once
        per_block = config.channels * config.staged
        assert launch.grid[0] * per_block in range(64, 64 + max(config.group, per_block))


def test_blocks_of_no_power_of_two_have_one_kernel():
    for block, transform in ((3, 4), (24, 32), (600, 1024), (5000, 8192)):
        plan = Plan(2 * block, (block,))
        state = state_of(plan, 33)
        for memory in range(3):
            launch = launch_shapes.future_fill(state, plan.levels[0], None, 0, 64, memory)
            assert launch.kernel == f"future_fill<ConfigOf<{transform}, 0, false>>"


@pytest.mark.parametrize(
    ("block", "nodes", "points"),
    [(9000, 16, 1024), (32768, 32, 1024), (1 << 16, 64, 1024), (1 << 17, 64, 2048),
     (1 << 18, 64, 4096)],
)  # fmt: skip
def test_three_passes(block, nodes, points):
    plan = Plan(2 * block, (block,))
    state = make_state([torch.ones(1, 2 * block)] * 3, plan, 2, 96)
    n = plan.levels[0].transform
    scratch, twist = torch.empty(2, 1, n, 64, 2), torch.empty(n, 2)
    for memory in range(3):
        split, middle, merge = launch_shapes.long_fill(
            state, plan.levels[0], torch.tensor([1]), scratch, twist, 1, 32, memory=memory
        )
        assert (split.kernel, merge.kernel) == (f"split_block<{nodes}>", f"merge_block<{nodes}>")
        assert split.grid == merge.grid == (2 * n // nodes // 4, 1, 2)
        assert middle.kernel.startswith(f"transform_nodes<NodesOf<{points}, ")
        assert middle.grid == (64 // (4 if points == 4096 else 8), 1, 2 * nodes)
        assert middle.shared <= (99, 163, 227)[memory] << 10
    assert cuda.nodes_of(n) == nodes
    assert split.arguments[:2] == (scratch.data_ptr(), state.ring[1].data_ptr())


@pytest.mark.parametrize("block", [8193, 16384])
def test_longer_blocks_have_no_fill_in_one_kernel(block):
    plan = Plan(2 * block, (block,))
    with pytest.raises(ValueError, match="no such kernel"):
        launch_shapes.future_fill(state_of(plan, 1), plan.levels[0], None, 0, 32, 1)


def test_fill_of_some_rows_and_channels():
    plan = Plan(64, (32,))
    state = state_of(plan, 300, batch=4)
    rows = torch.tensor([3, 1])
    launch = launch_shapes.future_fill(state, plan.levels[0], rows, 32, 320, 1)
    assert launch.grid == (3, 2, 1)
    assert launch.arguments[4:6] == (state.positions.data_ptr(), rows.data_ptr())


@pytest.mark.parametrize(
    ("layers", "batch", "channels", "kernel", "grid"),
    [
        (24, 1, 1024, "1, 2, 4", (32, 1, 24)),  # a sector a warp
        (8, 2, 1024, "1, 2, 4", (32, 2, 8)),  # 256 warps of several rows would be few
        (16, 2, 1024, "4, 8, 2", (8, 1, 16)),
        (3, 64, 1000, "4, 8, 2", (8, 16, 3)),
        (1, 9, 33, "1, 2, 4", (2, 9, 1)),
    ],
)
def test_history(layers, batch, channels, kernel, grid):
    """Rows share the taps where enough warps are left for all SMs."""
    state = state_of(Plan(128, (64,)), channels, batch, layers)
    launch = launch_shapes.history(state, None)
    assert launch.kernel == f"history<{kernel}, false>"
    assert (launch.grid, launch.threads, launch.shared) == (grid, 128, 0)
    written = (state.token_at, state.undo, state.history)
    assert launch.arguments[3:7] == (0, *(x.data_ptr() for x in written))


def test_history_of_some_rows_with_shared_filters():
    state = make_state([torch.ones(4, 64)] * 2, Plan(64, (16,)), 5, 12)
    launch = launch_shapes.history(state, torch.tensor([3, -1, 1]))
    assert launch.kernel == "history<1, 2, 4, true>"
    assert launch.grid == (1, 3, 2)


@pytest.mark.parametrize(
    ("channels", "vector", "blocks"), [(1024, 4, 2), (1000, 4, 2), (6, 1, 1), (1030, 1, 9)]
)
@pytest.mark.parametrize("dtype", list(launch_shapes.IO_TYPES))
def test_apply_step(channels, vector, blocks, dtype):
    """Whole vectors where every row starts at one, also in parts of wider tensors."""
    state = state_of(Plan(128, (64,)), channels, 3, layers=2)
    u, pre, post = torch.zeros(3, 3 * channels, dtype=dtype).chunk(3, 1)
    launch = launch_shapes.apply_step(state, u, pre, post, u, None, 1, True)
    kind = launch_shapes.IO_TYPES[dtype]
    assert launch.kernel == f"apply_step<IoOf<IoType({kind})>, {vector}>"
    assert (launch.grid, launch.threads, launch.shared) == ((blocks, 3, 1), 128, 0)
    layer = [x[1].data_ptr() for x in (state.ring, state.taps, state.history, state.token_at)]
    assert launch.arguments[4:9] == (*layer[:2], 0, *layer[2:])


def test_apply_step_of_rows_that_start_anywhere():
    state = state_of(Plan(128, (64,)), 8, 3)
    token = torch.zeros(3, 17)
    for u in (token[:, :8], token[:, 1:9], torch.zeros(25)[1:].view(3, 8)):
        launch = launch_shapes.apply_step(state, u, None, None, u, None, 0, False)
        assert launch.kernel.endswith(", 1>")


@pytest.mark.parametrize(("starts", "times"), [(None, 2), (torch.zeros(3, dtype=torch.int64), 3)])
def test_prompts(starts, times):
    u, z = torch.zeros(3, 40, 64), torch.zeros(3, 40, 200)
    held = torch.zeros(3, 40, 70)[..., 2:66]
    launch = launch_shapes.prefill_inputs(u, None, None, z, held)
    assert launch.kernel == "prefill_inputs<IoOf<IoType(0)>>"
    assert launch.grid == (1, 40, 3)
    fill = torch.zeros(2, 3, 1, 64, 64)
    rows = torch.arange(3)
    outputs = (z, u, None, None, None, u, fill, fill.clone(), rows, starts, rows)
    launch = launch_shapes.prefill_outputs(*outputs, layer=1, first_channel=8)
    assert launch.kernel == "prefill_outputs<IoOf<IoType(0)>>"
    assert launch.grid == (times, 2, 3)
    assert launch.arguments[6] == fill[1, 0, 0, 0, 8:].data_ptr()
