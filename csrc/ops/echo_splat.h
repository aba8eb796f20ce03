// Ultrasonic echoes onto the BEV near the vehicle: occupied where an echo came from, free before it.
#pragma once

#include <cstdint>

#include "include/echo_splat_math.h"
#include "include/executor.h"

namespace perception {

struct EchoTable {
  int64_t count;
  const double* geometry;   // (echoes, kEchoColumns)
  const double* amplitude;  // (echoes)
  const double* sigma;      // (echoes)
  const int64_t* kind;      // (echoes)
};

constexpr int64_t kEchoBevChannels = 3;      // occupied, free, age
constexpr int64_t kEchoProductChannels = 4;  // others and zeros of occupied, then of free

// Adds the echoes order[offsets[sample] .. offsets[sample + 1]) of each sample in that order.
//   bev (samples, 3, rows, columns), products (samples, 4, rows, columns)
void echo_splat(const Executor& executor, const EchoGrid& grid, int64_t samples, const EchoTable& echoes,
                const int64_t* order, const int64_t* offsets, double* bev, double* products);

// Each echo gathers from the cells that it says something about. Echoes with a sample outside [0, samples) receive 0.
//   gradient (samples, 3, rows, columns); the age receives none
void echo_splat_backward(const Executor& executor, const EchoGrid& grid, int64_t samples, const EchoTable& echoes,
                         const int64_t* batch_index, const double* gradient, const double* products,
                         double* amplitude_gradient, double* sigma_gradient);

// Writes a finished cell; `plane` is rows x columns, the pointers start at its sample.
PERCEPTION_HOST_DEVICE void write_echo_cell(const EchoCell& done, int64_t plane, int64_t cell, double* bev,
                                            double* products) {
  bev[cell] = done.occupied.value();
  bev[plane + cell] = done.free.value();
  bev[2 * plane + cell] = done.age;
  products[cell] = done.occupied.others;
  products[plane + cell] = done.occupied.zeros;
  products[2 * plane + cell] = done.free.others;
  products[3 * plane + cell] = done.free.zeros;
}

// Adds what one cell gives to the gradients of an echo; `gradient` and `products` start at the echo's sample.
PERCEPTION_HOST_DEVICE void add_echo_gradient(const EchoGrid& grid, const Echo& echo, int64_t row, int64_t column,
                                              const double* gradient, const double* products,
                                              double* amplitude_gradient, double* sigma_gradient) {
  EchoEvidence evidence;
  if (!echo_evidence(echo, grid.center(0, column), grid.center(1, row), &evidence)) return;
  const int64_t plane = grid.rows * grid.columns;
  const int64_t cell = row * grid.columns + column;
  const NoisyOr occupied{products[cell], products[plane + cell]};
  const NoisyOr free{products[2 * plane + cell], products[3 * plane + cell]};
  const double to_occupied = gradient[cell] * occupied.slope(evidence.occupied);
  const double to_free = gradient[plane + cell] * free.slope(evidence.free);
  *amplitude_gradient += to_occupied * evidence.occupied_by_amplitude;
  *sigma_gradient += to_occupied * evidence.occupied_by_sigma + to_free * evidence.free_by_sigma;
}

}  // namespace perception
