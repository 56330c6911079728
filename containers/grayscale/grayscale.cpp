// Smooths without blurring edges, then shows a window of the values as 8-bit gray: `grayscale INPUT OUTPUT`.
//
// Every slice goes through a bilateral filter (C. Tomasi, R. Manduchi, "Bilateral filtering for gray and color
// images", ICCV 1998) in modality units, then through window center and width (DICOM PS3.3 C.11.2.1.2.1).
// Parameters: window_center, window_width, sigma_pixels (0: no filter), sigma_units.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "mip_volume.hpp"

namespace {

using Index = std::ptrdiff_t;

struct Settings {
    double window_center, window_width, sigma_pixels, sigma_units;
};

Settings read_settings(const mip::Parameters& parameters) {
    const Settings settings{parameters.number("window_center", 40), parameters.number("window_width", 400),
                            parameters.number("sigma_pixels", 1.5), parameters.number("sigma_units", 40)};
    if (!(settings.window_width >= 1)) throw std::runtime_error("window_width must be at least 1");
    if (!(settings.sigma_pixels >= 0 && settings.sigma_pixels <= 8))
        throw std::runtime_error("sigma_pixels must lie between 0 and 8");
    if (!(settings.sigma_units > 0)) throw std::runtime_error("sigma_units must be greater than 0");
    return settings;
}

// A gray level for a value: PS3.3 C.11.2.1.2.1, from 0 to 255. What is no number is black.
class Window {
  public:
    Window(double center, double width) : low_(center - 0.5 - (width - 1) / 2), width_(width - 1) {}

    std::uint8_t operator()(float value) const {
        if (!(value > low_)) return 0;
        if (value > low_ + width_) return 255;
        return static_cast<std::uint8_t>((value - low_) / width_ * 255 + 0.5);
    }

  private:
    double low_, width_;
};

// exp(-t) is taken as (1 - t / 1024) to the power of 1024: ten squarings, which compilers turn into vector code.
constexpr double kSteepness = 1024;

// Where the processor has wide vectors they are used; without fused multiply-add, so that results stay the same.
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void add_neighbours(const float* __restrict values, const float* __restrict centre, float range, float closeness,
                    Index columns, float* __restrict sum, float* __restrict weight) {
    for (Index x = 0; x < columns; ++x) {
        const float difference = values[x] - centre[x];
        float similar = 1 - difference * difference * range;
        similar = similar > 0 ? similar : 0;
        for (int squaring = 0; squaring < 10; ++squaring) similar *= similar;
        const float both = similar * closeness;
        sum[x] += both * values[x];
        weight[x] += both;
    }
}

class Bilateral {
  public:
    Bilateral(double sigma_pixels, double sigma_units)
        : radius_(static_cast<Index>(std::ceil(2 * sigma_pixels))),
          range_(static_cast<float>(1 / (2 * sigma_units * sigma_units * kSteepness))) {
        for (Index dy = -radius_; dy <= radius_; ++dy)
            for (Index dx = -radius_; dx <= radius_; ++dx) {
                const double squared = static_cast<double>(dx * dx + dy * dy);
                closeness_.push_back(
                    static_cast<float>(radius_ ? std::exp(-squared / (2 * sigma_pixels * sigma_pixels)) : 1));
            }
    }

    Index radius() const { return radius_; }

    // One row: `rows` are 2 * radius + 1 rows of columns + 2 * radius values around it, one after the other.
    void filter(const std::vector<float>& rows, Index columns, std::vector<float>& sum, std::vector<float>& weight) const {
        const Index stride = columns + 2 * radius_;
        const float* centre = rows.data() + radius_ * stride + radius_;
        std::fill(sum.begin(), sum.end(), 0.0F);
        std::fill(weight.begin(), weight.end(), 0.0F);
        for (Index dy = 0; dy <= 2 * radius_; ++dy)
            for (Index dx = 0; dx <= 2 * radius_; ++dx)
                add_neighbours(rows.data() + dy * stride + dx, centre, range_,
                               closeness_[static_cast<std::size_t>(dy * (2 * radius_ + 1) + dx)], columns, sum.data(),
                               weight.data());
    }

  private:
    Index radius_;
    float range_;
    std::vector<float> closeness_;
};

// The rows around `row` of a slice as floats; beyond the border its nearest pixel.
template <class Pixel>
void gather(const Pixel* slice, Index rows, Index columns, Index row, Index radius, std::vector<float>& gathered) {
    float* place = gathered.data();
    for (Index y = row - radius; y <= row + radius; ++y) {
        const Pixel* source = slice + std::clamp<Index>(y, 0, rows - 1) * columns;
        place = std::fill_n(place, radius, static_cast<float>(source[0]));
        place = std::transform(source, source + columns, place, [](Pixel pixel) { return static_cast<float>(pixel); });
        place = std::fill_n(place, radius, static_cast<float>(source[columns - 1]));
    }
}

template <class Pixel>
void process(const mip::Volume& input, const Settings& settings, mip::Output<std::uint8_t>& output) {
    const Window window(settings.window_center, settings.window_width);
    const Bilateral bilateral(settings.sigma_pixels, settings.sigma_units);
    const Index rows = input.rows(), columns = input.columns(), radius = bilateral.radius();
    const Pixel* pixels = input.data<Pixel>();
    const auto width = static_cast<std::size_t>(columns);
#pragma omp parallel
    {
        std::vector<float> around(static_cast<std::size_t>((2 * radius + 1) * (columns + 2 * radius)));
        std::vector<float> sum(width), weight(width);
#pragma omp for schedule(dynamic, 16)
        for (Index row = 0; row < input.slices() * rows; ++row) {
            gather(pixels + row / rows * rows * columns, rows, columns, row % rows, radius, around);
            bilateral.filter(around, columns, sum, weight);
            std::uint8_t* shown = output.data() + row * columns;
            for (std::size_t x = 0; x < width; ++x) shown[x] = window(sum[x] / weight[x]);
        }
    }
}

void work(const mip::Volume& input, const mip::Parameters& parameters, const char* path) {
    const Settings settings = read_settings(parameters);
    mip::Output<std::uint8_t> output(path, input);
    switch (input.type()) {
        case mip::Type::int16: return process<std::int16_t>(input, settings, output);
        case mip::Type::float32: return process<float>(input, settings, output);
        case mip::Type::uint16: return process<std::uint16_t>(input, settings, output);
        case mip::Type::uint8: return process<std::uint8_t>(input, settings, output);
    }
}

}  // namespace

int main(int argc, char** argv) { return mip::run(argc, argv, work); }
