#include "ops/echo_splat.h"

#include <vector>

namespace perception {
namespace {

constexpr int64_t kRowsPerTask = 4;

void add_to_row(const EchoGrid& grid, const Echo& echo, int64_t row, EchoCell* cells) {
  int64_t first, last;
  echo_cells(grid, echo, 1, grid.rows, &first, &last);
  if (row < first || row >= last) return;
  echo_cells(grid, echo, 0, grid.columns, &first, &last);
  const double y = grid.center(1, row);
  for (int64_t column = first; column < last; ++column) {
    EchoEvidence evidence;
    if (echo_evidence(echo, grid.center(0, column), y, &evidence)) cells[column].add(echo, evidence);
  }
}

}  // namespace

// A thread owns rows and walks all echoes of their sample in order, so that a cell's product has one order.
void echo_splat(const Executor& executor, const EchoGrid& grid, int64_t samples, const EchoTable& echoes,
                const int64_t* order, const int64_t* offsets, double* bev, double* products) {
  const int64_t plane = grid.rows * grid.columns;
  executor.parallel_for(samples * grid.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<EchoCell> cells;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sample = item / grid.rows;
      const int64_t row = item % grid.rows;
      cells.assign(grid.columns, EchoCell());
      for (int64_t i = offsets[sample]; i < offsets[sample + 1]; ++i) {
        const int64_t number = order[i];
        Echo echo;
        if (read_echo(echoes.geometry + number * kEchoColumns, echoes.amplitude[number], echoes.sigma[number],
                      echoes.kind[number], &echo)) {
          add_to_row(grid, echo, row, cells.data());
        }
      }
      for (int64_t column = 0; column < grid.columns; ++column) {
        write_echo_cell(cells[column], plane, row * grid.columns + column, bev + sample * kEchoBevChannels * plane,
                        products + sample * kEchoProductChannels * plane);
      }
    }
  });
}

void echo_splat_backward(const Executor& executor, const EchoGrid& grid, int64_t samples, const EchoTable& echoes,
                         const int64_t* batch_index, const double* gradient, const double* products,
                         double* amplitude_gradient, double* sigma_gradient) {
  const int64_t plane = grid.rows * grid.columns;
  executor.parallel_for(echoes.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      amplitude_gradient[i] = sigma_gradient[i] = 0;
      const int64_t sample = batch_index[i];
      Echo echo;
      if (sample < 0 || sample >= samples ||
          !read_echo(echoes.geometry + i * kEchoColumns, echoes.amplitude[i], echoes.sigma[i], echoes.kind[i], &echo)) {
        continue;
      }
      int64_t first[2], last[2];
      echo_cells(grid, echo, 0, grid.columns, &first[0], &last[0]);
      echo_cells(grid, echo, 1, grid.rows, &first[1], &last[1]);
      for (int64_t row = first[1]; row < last[1]; ++row) {
        for (int64_t column = first[0]; column < last[0]; ++column) {
          add_echo_gradient(grid, echo, row, column, gradient + sample * kEchoBevChannels * plane,
                            products + sample * kEchoProductChannels * plane, amplitude_gradient + i,
                            sigma_gradient + i);
        }
      }
    }
  });
}

}  // namespace perception
