"""Reading the text of compiled programs: pieces of real ones, of the TPU's compiler and of the CPU's."""

from wt_jax.tools.hlo import collectives, copies, custom_calls

# The quick start's step for v5e:2x2, shortened: two gathers, one of them in two parts that overlap with other work.
TPU = """HloModule jit_step, is_scheduled=true

%fused_computation.983 (param_0.2830: f32[8,128]) -> (f32[8,128], f32[32,128], s32[2], u32[], /*index=5*/u32[]) {
  %param_0.2830 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.13 = f32[32,128]{1,0:T(8,128)} all-gather(%param_0.2830), channel_id=27, \
replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, dimensions={0}
  ROOT %custom-call.1 = (f32[8,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0}) custom-call(%all-gather.13), \
custom_call_target="AsyncCollectiveStart"
}

%fused_computation.984 (param_0.2833: f32[8,128]) -> f32[32,128] {
  %param_0.2833 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.15 = f32[32,128]{1,0:T(8,128)S(1)} all-gather(%param_0.2833), channel_id=27, \
replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, dimensions={0}
}

%copy_computation (param_0: u8[8,1024,1024]) -> u8[8,1024,1024] {
  ROOT %copy.736 = u8[8,1024,1024]{0,2,1:T(8,128)(4,1)} copy(%param_0)
}

ENTRY %main (p0: f32[8,128], p1: u8[8,1024,1024]) -> (f32[32,128], f32[96]) {
  %p0 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %fusion.1 = u8[8,1024,1024]{2,1,0} fusion(%p1), kind=kLoop, calls=%copy_computation
  %copy.3 = f32[512,1024]{0,1:T(8,128)} copy(%bitcast), metadata={op_name="jit(step)/transpose"}
  %copy.4 = f32[8,128]{0,1:T(8,128)} copy(%bitcast.1)
  %all-gather.2 = f32[32,128]{1,0:T(8,128)} all-gather(%p0), channel_id=24, replica_groups=[1,4]<=[4], dimensions={0}
  %all-reduce.38 = (f32[96]{0:T(128)S(1)}, f32[96]{0:T(128)S(1)}) all-reduce(%a, %b), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0','axis_1'}, to_apply=%region_97
}
"""

# Accumulation: a loop of three pieces, in which parameters are gathered and gradients scattered, in pairs of devices.
LOOP = """HloModule jit_step

%body (state: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %all-gather-start.1 = (f32[64,8]{1,0}, f32[128,8]{1,0}) all-gather-start(%x), channel_id=1, \
replica_groups={{0,1},{2,3}}, dimensions={0}
  %all-gather-done.1 = f32[128,8]{1,0} all-gather-done(%all-gather-start.1)
  %reduce-scatter.2 = bf16[64,8]{1,0} reduce-scatter(%y), channel_id=2, replica_groups={{0,1},{2,3}}, dimensions={0}
}

ENTRY main (p: f32[64,8]) -> f32[64,8] {
  %while.4 = (s32[], f32[64,8]{1,0}) while(%tuple), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
  %permute.5 = f32[64,8]{1,0} collective-permute(%z), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %call.6 = f32[64,8]{1,0} custom-call(%z), custom_call_target="wt_jax_cpu", api_version=API_VERSION_TYPED_FFI
}
"""


def test_parts_of_one_exchange_are_one():
    found = {(each.kind, each.shape): each for each in collectives(TPU, 4)}
    assert len(collectives(TPU, 4)) == 3
    gathered = found["all-gather", "f32[32,128]"]
    assert (gathered.size, gathered.group, gathered.repeats) == (4 * 32 * 128, 4, 1)
    reduced = found["all-reduce", "f32[96] + f32[96]"]
    assert reduced.size == 4 * 2 * 96
    assert sum(each.sent for each in collectives(TPU, 4)) == 2 * 0.75 * 16384 + 1.5 * 768


def test_loops_and_groups_count():
    gather, scatter, permute = sorted(collectives(LOOP, 4), key=lambda each: each.kind != "all-gather")[:3]
    assert (gather.kind, gather.shape, gather.size, gather.group, gather.repeats) == ("all-gather", "f32[128,8]", 4096, 2, 3)
    assert gather.sent == 3 * 2048
    assert (scatter.kind, scatter.size, scatter.sent) == ("reduce-scatter", 2048, 3 * 1024)
    assert (permute.kind, permute.repeats, permute.sent) == ("collective-permute", 1, 2048)


def test_custom_calls_of_hlo_and_of_stablehlo():
    assert custom_calls(LOOP) == {"wt_jax_cpu": 1}
    lowered = '%1 = stablehlo.custom_call @__cudnn$fmhaSoftmax(%0) {backend_config = ""}\n' * 2
    assert custom_calls(lowered) == {"__cudnn$fmhaSoftmax": 2}


def test_copies_are_those_that_are_not_part_of_another_operation():
    (copy,) = copies(TPU)
    assert (copy.size, copy.shape, copy.repeats, copy.cause) == (2**21, "f32[512,1024]", 1, "jit(step)/transpose")
    assert len(copies(TPU, at_least=1)) == 2
