// The table of one instruction set. Included last inside its namespace.

extern const Kernels kKernels;
const Kernels kKernels = {kName, linear, linear_dense, side_sums, side_add, quantise, embed, norm, add, gelu_gate, silu_gate, rope, store_key_value, attend_partition, join_partial, top_k, log_sum_exp,
                          head_project, head_scan, head_doubts};
