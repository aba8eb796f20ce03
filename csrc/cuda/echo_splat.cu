#include "cuda/launch.cuh"
#include "ops/echo_splat.h"

namespace perception {
namespace {

constexpr int kWarp = 32;

__device__ __forceinline__ bool echo_at(const EchoTable& echoes, int64_t i, Echo* echo) {
  return read_echo(echoes.geometry + i * kEchoColumns, echoes.amplitude[i], echoes.sigma[i], echoes.kind[i], echo);
}

// One thread per cell walks the echoes of its sample in order: the same product on every run.
__global__ void splat_cells(EchoGrid grid, int64_t samples, EchoTable echoes, const int64_t* order,
                            const int64_t* offsets, double* bev, double* products) {
  const int64_t plane = grid.rows * grid.columns;
  for (int64_t item = first_item(); item < samples * plane; item += item_stride()) {
    const int64_t sample = item / plane;
    const int64_t cell = item % plane;
    const double x = grid.center(0, cell % grid.columns);
    const double y = grid.center(1, cell / grid.columns);
    EchoCell result;
    for (int64_t i = offsets[sample]; i < offsets[sample + 1]; ++i) {
      Echo echo;
      EchoEvidence evidence;
      if (echo_at(echoes, order[i], &echo) && echo_evidence(echo, x, y, &evidence)) result.add(echo, evidence);
    }
    write_echo_cell(result, plane, cell, bev + sample * kEchoBevChannels * plane,
                    products + sample * kEchoProductChannels * plane);
  }
}

__device__ __forceinline__ double warp_sum(double value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, offset);
  return value;
}

// One warp per echo; each lane takes every 32nd cell of the echo's box, then the lanes are added up in one order.
__global__ void gather_echoes(EchoGrid grid, int64_t samples, EchoTable echoes, const int64_t* batch_index,
                              const double* gradient, const double* products, double* amplitude_gradient,
                              double* sigma_gradient) {
  const int lane = threadIdx.x % kWarp;
  const int64_t plane = grid.rows * grid.columns;
  for (int64_t i = first_item() / kWarp; i < echoes.count; i += item_stride() / kWarp) {
    const int64_t sample = batch_index[i];
    double by_amplitude = 0;
    double by_sigma = 0;
    Echo echo;
    if (sample >= 0 && sample < samples && echo_at(echoes, i, &echo)) {
      int64_t first[2], last[2];
      echo_cells(grid, echo, 0, grid.columns, &first[0], &last[0]);
      echo_cells(grid, echo, 1, grid.rows, &first[1], &last[1]);
      const int64_t width = last[0] - first[0];
      for (int64_t cell = lane; cell < width * (last[1] - first[1]); cell += kWarp) {
        add_echo_gradient(grid, echo, first[1] + cell / width, first[0] + cell % width,
                          gradient + sample * kEchoBevChannels * plane,
                          products + sample * kEchoProductChannels * plane, &by_amplitude, &by_sigma);
      }
    }
    by_amplitude = warp_sum(by_amplitude);
    by_sigma = warp_sum(by_sigma);
    if (lane != 0) continue;
    amplitude_gradient[i] = by_amplitude;
    sigma_gradient[i] = by_sigma;
  }
}

}  // namespace

void echo_splat(const Executor& executor, const EchoGrid& grid, int64_t samples, const EchoTable& echoes,
                const int64_t* order, const int64_t* offsets, double* bev, double* products) {
  const int64_t items = samples * grid.rows * grid.columns;
  if (items == 0) return;
  splat_cells<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(grid, samples, echoes, order, offsets, bev,
                                                                       products);
  check_cuda(cudaGetLastError(), "echo_splat");
}

void echo_splat_backward(const Executor& executor, const EchoGrid& grid, int64_t samples, const EchoTable& echoes,
                         const int64_t* batch_index, const double* gradient, const double* products,
                         double* amplitude_gradient, double* sigma_gradient) {
  if (echoes.count == 0) return;
  gather_echoes<<<blocks_for(echoes.count * kWarp), kThreads, 0, stream_of(executor)>>>(
      grid, samples, echoes, batch_index, gradient, products, amplitude_gradient, sigma_gradient);
  check_cuda(cudaGetLastError(), "echo_splat_backward");
}

}  // namespace perception
