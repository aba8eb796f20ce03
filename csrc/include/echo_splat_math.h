// What an ultrasonic echo says about a place on the ground.
#pragma once

#include <cmath>
#include <cstdint>

#include "include/host_device.h"

namespace perception {

enum class EchoKind : int64_t { kFirst = 1, kLater = 2, kNone = 3 };

// Range noise is cut off here, and free space ends where an echo becomes likely.
constexpr double kEchoSigmas = 4;
constexpr double kFreeSigmas = 2;
// So far before an echo exp gives less than rounding keeps of 1, and erfc 2 exactly.
constexpr double kCertainSigmas = 11;

// Columns of the table of echoes.
constexpr int64_t kEchoColumns = 11;  // of sender, then receiver: x y and facing x y; distance, beam exponent, age

struct EchoGrid {
  double lower_m[2];  // x y
  double cell_m[2];
  int64_t columns;
  int64_t rows;

  PERCEPTION_HOST_DEVICE double center(int axis, int64_t cell) const {
    return lower_m[axis] + (static_cast<double>(cell) + 0.5) * cell_m[axis];
  }
};

struct Echo {
  double place[2][2];   // of sender and receiver: x y
  double facing[2][2];  // unit vectors
  double distance;
  double exponent;
  double age;
  double amplitude;
  double sigma;
  EchoKind kind;
};

// Says false for an echo that says nothing: of another kind, with a number that is NaN or infinite, a sigma that is not
// positive or a negative distance.
PERCEPTION_HOST_DEVICE bool read_echo(const double* row, double amplitude, double sigma, int64_t kind, Echo* echo) {
  bool finite = std::isfinite(amplitude) && std::isfinite(sigma);
  for (int64_t column = 0; column < kEchoColumns; ++column) finite = finite && std::isfinite(row[column]);
  if (!finite || !(sigma > 0) || !(row[8] >= 0) || kind < 1 || kind > 3) return false;
  for (int end = 0; end < 2; ++end) {
    for (int axis = 0; axis < 2; ++axis) {
      echo->place[end][axis] = row[4 * end + axis];
      echo->facing[end][axis] = row[4 * end + 2 + axis];
    }
  }
  echo->distance = row[8];
  echo->exponent = row[9];
  echo->age = row[10];
  echo->amplitude = amplitude;
  echo->sigma = sigma;
  echo->kind = static_cast<EchoKind>(kind);
  return true;
}

// The cells first .. last - 1 along an axis that an echo may say something about.
PERCEPTION_HOST_DEVICE void echo_cells(const EchoGrid& grid, const Echo& echo, int axis, int64_t cells, int64_t* first,
                                       int64_t* last) {
  const double middle = (echo.place[0][axis] + echo.place[1][axis]) / 2 - grid.lower_m[axis];
  const double reach = echo.distance + kEchoSigmas * echo.sigma;
  const double low = (middle - reach) / grid.cell_m[axis] - 1;
  const double high = (middle + reach) / grid.cell_m[axis] + 1;
  const double limit = static_cast<double>(cells);
  // What is out of range fails a comparison before it is made a whole number.
  *first = low > 0 ? (low < limit ? static_cast<int64_t>(low) : cells) : 0;
  *last = high > 0 ? (high < limit ? static_cast<int64_t>(high) : cells) : 0;
}

// Evidence between 0 and 1 and its slopes.
struct EchoEvidence {
  double occupied;
  double free;
  double occupied_by_amplitude;
  double occupied_by_sigma;
  double free_by_sigma;
};

// Says false where the echo says nothing: behind its sensors, or beyond it.
PERCEPTION_HOST_DEVICE bool echo_evidence(const Echo& echo, double x, double y, EchoEvidence* evidence) {
  double path = 0;
  double cosines = 1;
  for (int end = 0; end < 2; ++end) {
    const double to_x = x - echo.place[end][0];
    const double to_y = y - echo.place[end][1];
    const double length = std::sqrt(to_x * to_x + to_y * to_y);
    const double ahead = to_x * echo.facing[end][0] + to_y * echo.facing[end][1];
    if (!(ahead > 0)) return false;
    path += length / 2;
    cosines *= ahead / length;
  }
  const double z = (path - echo.distance) / echo.sigma;
  if (!(z <= kEchoSigmas)) return false;
  const double beam = std::pow(cosines, echo.exponent);
  constexpr double kSqrtHalf = 0.70710678118654752440;
  constexpr double kDensityAtZero = 0.39894228040143267794;
  *evidence = EchoEvidence{};
  if (z < -kCertainSigmas) {
    evidence->free = echo.kind == EchoKind::kLater ? 0.0 : beam;
    return true;
  }
  if (echo.kind != EchoKind::kNone) {
    evidence->occupied_by_amplitude = beam * std::exp(-z * z / 2);
    evidence->occupied = echo.amplitude * evidence->occupied_by_amplitude;
    // Far from the echo z * z may be infinite.
    evidence->occupied_by_sigma = evidence->occupied > 0 ? evidence->occupied * z * z / echo.sigma : 0.0;
  }
  if (echo.kind != EchoKind::kLater) {
    const double end = z + kFreeSigmas;
    evidence->free = beam * std::erfc(end * kSqrtHalf) / 2;
    const double density = kDensityAtZero * std::exp(-end * end / 2);
    evidence->free_by_sigma = density > 0 ? beam * density * z / echo.sigma : 0.0;
  }
  return true;
}

// The product of 1 - evidence, kept so that one factor can be taken out again, even if it is 0.
struct NoisyOr {
  double others = 1;  // product of the factors that are not 0
  double zeros = 0;   // number of those that are

  PERCEPTION_HOST_DEVICE void add(double evidence) {
    const double factor = 1 - evidence;
    if (factor == 0) {
      zeros += 1;
    } else {
      others *= factor;
    }
  }
  PERCEPTION_HOST_DEVICE double value() const { return zeros > 0 ? 1.0 : 1 - others; }

  // How fast the value grows with one of its pieces of evidence.
  PERCEPTION_HOST_DEVICE double slope(double evidence) const {
    const double factor = 1 - evidence;
    if (factor == 0) return zeros == 1 ? others : 0.0;
    return zeros == 0 ? others / factor : 0.0;
  }
};

// Everything that the echoes of a sample say about one cell.
struct EchoCell {
  NoisyOr occupied;
  NoisyOr free;
  double strongest = 0;
  double age = 0;  // of the echo with the strongest evidence, the first of equals

  PERCEPTION_HOST_DEVICE void add(const Echo& echo, const EchoEvidence& evidence) {
    occupied.add(evidence.occupied);
    free.add(evidence.free);
    const double stronger = evidence.occupied > evidence.free ? evidence.occupied : evidence.free;
    if (stronger > strongest && 1 - stronger < 1) {  // less is lost in the product
      strongest = stronger;
      age = echo.age;
    }
  }
};

}  // namespace perception
