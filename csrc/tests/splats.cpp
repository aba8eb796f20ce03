#include "ops/echo_splat.h"
#include "ops/group_rows.h"
#include "ops/radar_splat.h"
#include "tests/check.h"

namespace perception::testing {
namespace {

struct Samples {
  Buffer<int64_t> index, order, offsets;

  Samples(Random& random, int64_t count, int64_t samples)
      : index(random.wholes(count, -1, samples - 1)), order(count), offsets(samples + 1) {
    Buffer<char> workspace(group_rows_workspace(count));
    CHECK(group_rows({run_whole}, index.data(), count, samples, order.data(), offsets.data(), workspace.data()) == -1);
  }
};

void splat_echoes(int64_t count, int64_t samples, const EchoGrid& grid, double spoiled) {
  Random random(1);
  const Samples of(random, count, samples);
  Buffer<double> geometry = random.reals<double>(count * kEchoColumns, -3, 3);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t end = 0; end < 2; ++end) {
      const double heading = random.real(-4, 4);
      geometry[i * kEchoColumns + 4 * end + 2] = std::cos(heading);
      geometry[i * kEchoColumns + 4 * end + 3] = std::sin(heading);
    }
    geometry[i * kEchoColumns + 8] = random.real(0, 5);
    geometry[i * kEchoColumns + 9] = random.real(0.5, 20);
  }
  random.spoil(geometry, spoiled);
  Buffer<double> amplitude = random.reals<double>(count, 0, 1), sigma = random.reals<double>(count, 0.01, 0.5);
  random.spoil(sigma, spoiled);
  if (count > 0) amplitude[0] = 1;
  const Buffer<int64_t> kind = random.wholes(count, spoiled > 0 ? -5 : 0, 4);
  const EchoTable echoes{count, geometry.data(), amplitude.data(), sigma.data(), kind.data()};
  const int64_t plane = grid.rows * grid.columns;
  const Buffer<double> gradient = random.reals<double>(samples * kEchoBevChannels * plane, -1, 1);
  steady([&](const Executor& executor) {
    Buffer<double> bev(gradient.size()), products(samples * kEchoProductChannels * plane);
    Buffer<double> to_amplitude(count), to_sigma(count);
    echo_splat(executor, grid, samples, echoes, of.order.data(), of.offsets.data(), bev.data(), products.data());
    for (int64_t i = 0; i < bev.size(); ++i) {
      CHECK(i / plane % kEchoBevChannels == 2 ? std::isfinite(bev[i]) : bev[i] >= 0 && bev[i] <= 1);
    }
    echo_splat_backward(executor, grid, samples, echoes, of.index.data(), gradient.data(), products.data(),
                        to_amplitude.data(), to_sigma.data());
    for (int64_t i = 0; i < count; ++i) CHECK(std::isfinite(to_amplitude[i]) && !std::isnan(to_sigma[i]));
    return bytes_of(bev, products, to_amplitude, to_sigma);
  });
}

TEST(echo_splat_gives_evidence_between_0_and_1) {
  const EchoGrid square{{-4, -4}, {0.25, 0.25}, 32, 32}, line{{-4, 0}, {0.1, 5}, 80, 1}, cell{{-4, -4}, {8, 8}, 1, 1};
  for (const EchoGrid& grid : {square, line, cell}) {
    for (const double spoiled : {0.0, 0.05}) {
      splat_echoes(0, 2, grid, spoiled);
      splat_echoes(1, 1, grid, spoiled);
      splat_echoes(40, 2, grid, spoiled);
      splat_echoes(40, 0, grid, spoiled);
    }
  }
}

template <typename T>
void splat_returns(int64_t count, int64_t channels, const BevGrid& grid, double spoiled) {
  Random random(2);
  constexpr int64_t kSamples = 2;
  const Samples of(random, count, kSamples);
  Buffer<double> positions = random.reals<double>(2 * count, -5, 5);
  Buffer<double> velocities = random.reals<double>(2 * count, -20, 20), covariances(4 * count);
  for (int64_t i = 0; i < count; ++i) {
    const double xx = random.real(0, 2), yy = random.real(0, 2), xy = std::sqrt(xx * yy) * random.real(-1, 1);
    const double covariance[] = {xx, xy, xy, yy};
    std::copy_n(covariance, 4, covariances.data() + 4 * i);
  }
  random.spoil(positions, spoiled);
  random.spoil(velocities, spoiled);
  random.spoil(covariances, spoiled);
  const RadarSplatSizes sizes{kSamples, channels};
  const Buffer<T> features = random.reals<T>(count * channels, -1, 1);
  const int64_t cells = kSamples * grid.rows * grid.columns;
  const Buffer<T> gradient = random.reals<T>(cells * channels, -1, 1);
  steady([&](const Executor& executor) {
    Buffer<RadarFootprint> footprints(count);
    radar_footprints(executor, grid, {count, positions.data(), covariances.data(), velocities.data()},
                     footprints.data());
    Buffer<T> bev(gradient.size()), motion(cells * kMotionChannels), features_gradient(features.size());
    radar_splat(executor, grid, sizes, footprints.data(), velocities.data(), of.order.data(), of.offsets.data(),
                features.data(), bev.data(), motion.data());
    radar_splat_backward(executor, grid, sizes, count, footprints.data(), of.index.data(), gradient.data(),
                         features_gradient.data());
    double density = 0, by_bev = 0, by_features = 0;
    for (int64_t cell = 0; cell < cells; ++cell) density += static_cast<double>(motion[cell * kMotionChannels]);
    CHECK(density >= 0 && density <= static_cast<double>(count) * (1 + 1e-6));
    for (int64_t i = 0; i < bev.size(); ++i) by_bev += static_cast<double>(bev[i]) * static_cast<double>(gradient[i]);
    for (int64_t i = 0; i < features.size(); ++i) {
      by_features += static_cast<double>(features[i]) * static_cast<double>(features_gradient[i]);
    }
    CHECK(std::fabs(by_bev - by_features) < 1e-2);
    return bytes_of(bev, motion, features_gradient);
  });
}

TEST(radar_splat_spreads_no_more_than_there_is) {
  const BevGrid square{{-4, -4}, {0.25, 0.25}, 32, 32}, fine{{-4, -4}, {0.01, 0.5}, 100, 3},
      cell{{-4, -4}, {8, 8}, 1, 1};
  for (const BevGrid& grid : {square, fine, cell}) {
    for (const int64_t channels : channel_counts()) {
      for (const double spoiled : {0.0, 0.1}) {
        splat_returns<float>(0, channels, grid, spoiled);
        splat_returns<float>(50, channels, grid, spoiled);
        splat_returns<double>(20, channels, grid, spoiled);
      }
    }
  }
}

}  // namespace
}  // namespace perception::testing
