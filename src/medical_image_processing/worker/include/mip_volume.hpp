// Volumes and parameters for native algorithms, C++17, this header alone.
//
// The platform starts an algorithm's executable once per job as `EXECUTABLE INPUT OUTPUT`. INPUT is a NRRD file
// (teem.sourceforge.net/nrrd/format.html): three axes, int16 or float32 in modality units (HU for CT), raw. OUTPUT
// must be NRRD of the same sizes. The job's parameters are a JSON file named in MIP_PARAMETERS.
//
//     int main(int argc, char** argv) {
//         return mip::run(argc, argv, [](const mip::Volume& in, const mip::Parameters& parameters, const char* out) {
//             mip::Output<std::uint8_t> mask(out, in);
//             const double above = parameters.number("above", 300);
//             #pragma omp parallel for
//             for (std::ptrdiff_t i = 0; i < in.count(); ++i) mask[i] = in[i] > above;
//         });
//     }
//
// Files are mapped, not copied. Whatever is wrong is a std::runtime_error; mip::run prints it as the last line of
// standard error, which becomes the job's reason, and returns 1. Byte order is this machine's.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace mip {

/// What the pixels are.
enum class Type { uint8, int16, uint16, float32 };

namespace detail {

inline std::size_t bytes_of(Type type) { return type == Type::uint8 ? 1 : type == Type::float32 ? 4 : 2; }

inline const char* name_of(Type type) {
    switch (type) {
        case Type::uint8: return "uchar";
        case Type::int16: return "short";
        case Type::uint16: return "ushort";
        default: return "float";
    }
}

template <class Pixel>
constexpr Type type_of() {
    static_assert(std::is_same_v<Pixel, std::uint8_t> || std::is_same_v<Pixel, std::int16_t> ||
                      std::is_same_v<Pixel, std::uint16_t> || std::is_same_v<Pixel, float>,
                  "pixels are uint8_t, int16_t, uint16_t or float");
    if constexpr (std::is_same_v<Pixel, std::uint8_t>) return Type::uint8;
    if constexpr (std::is_same_v<Pixel, std::int16_t>) return Type::int16;
    if constexpr (std::is_same_v<Pixel, std::uint16_t>) return Type::uint16;
    return Type::float32;
}

inline bool is_big_endian() {
    const std::uint16_t one = 1;
    unsigned char first = 0;
    std::memcpy(&first, &one, 1);
    return first == 0;
}

/// A whole file in memory: to read, or a new one of `length` bytes to write.
class Mapping {
  public:
    explicit Mapping(const std::string& path) : Mapping(path, ::open(path.c_str(), O_RDONLY | O_CLOEXEC), 0, PROT_READ) {}
    Mapping(const std::string& path, std::size_t length)
        : Mapping(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), length,
                  PROT_READ | PROT_WRITE) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() { ::munmap(start_, length_); }

    char* start() const { return static_cast<char*>(start_); }
    std::size_t length() const { return length_; }

  private:
    Mapping(const std::string& path, int file, std::size_t length, int protection) : length_(length) {
        if (file < 0) throw std::runtime_error(path + " can't be opened");
        // Reserved at once: to run out of space later, in the mapping, would end the process without a word.
        const bool is_new = length != 0;
        struct stat status {};
        const bool is_ready =
            is_new ? ::posix_fallocate(file, 0, static_cast<off_t>(length)) == 0 : ::fstat(file, &status) == 0;
        if (!is_new) length_ = static_cast<std::size_t>(status.st_size);
        start_ = is_ready && length_ > 0 ? ::mmap(nullptr, length_, protection, MAP_SHARED, file, 0) : MAP_FAILED;
        ::close(file);
        if (start_ == MAP_FAILED) throw std::runtime_error(path + (is_new ? " has no room on its disk" : " can't be read"));
    }

    void* start_ = nullptr;
    std::size_t length_ = 0;
};

/// The description of a field in a NRRD header, empty if it isn't there.
inline std::string field(const std::string& header, const std::string& name) {
    const std::string key = "\n" + name + ": ";
    const std::size_t start = header.find(key);
    if (start == std::string::npos) return "";
    const std::size_t first = start + key.size();
    return header.substr(first, header.find('\n', first) - first);
}

}  // namespace detail

/// The input: pixels in modality units. `volume[i]` is any of them as float; slices lie one after the other.
class Volume {
  public:
    explicit Volume(const std::string& path) : file_(path) {
        const std::string text(file_.start(), file_.length() < kMaxHeader ? file_.length() : kMaxHeader);
        const std::size_t end = text.find("\n\n");
        if (text.compare(0, 7, "NRRD000") != 0 || end == std::string::npos)
            throw std::runtime_error(path + " is no NRRD file");
        header_ = text.substr(0, end + 1);
        read_type(path);
        read_sizes(path);
        pixels_ = file_.start() + end + 2;
        const std::size_t held = file_.length() - (end + 2);
        if (held < static_cast<std::size_t>(count()) * detail::bytes_of(type_))
            throw std::runtime_error(path + " is cut short");
    }

    std::ptrdiff_t columns() const { return columns_; }
    std::ptrdiff_t rows() const { return rows_; }
    std::ptrdiff_t slices() const { return slices_; }
    std::ptrdiff_t count() const { return columns_ * rows_ * slices_; }
    Type type() const { return type_; }

    /// The pixels as they lie in the file; `Pixel` must be what type() says.
    template <class Pixel>
    const Pixel* data() const {
        if (detail::type_of<Pixel>() != type_) throw std::runtime_error("the volume's pixels are of another type");
        return reinterpret_cast<const Pixel*>(pixels_);
    }

    float operator[](std::ptrdiff_t index) const {
        switch (type_) {
            case Type::uint8: return at<std::uint8_t>(index);
            case Type::int16: return at<std::int16_t>(index);
            case Type::uint16: return at<std::uint16_t>(index);
            default: return at<float>(index);
        }
    }

    /// The header's lines that say where the patient lies; an output repeats them.
    std::string placement() const {
        std::string lines;
        for (const char* name : {"space", "space directions", "space origin"}) {
            const std::string value = detail::field(header_, name);
            if (!value.empty()) lines += std::string(name) + ": " + value + "\n";
        }
        return lines;
    }

  private:
    static constexpr std::size_t kMaxHeader = 65536;

    template <class Pixel>
    float at(std::ptrdiff_t index) const {
        Pixel pixel;  // the pixels of a file from elsewhere may lie at any address
        std::memcpy(&pixel, pixels_ + static_cast<std::size_t>(index) * sizeof(Pixel), sizeof(Pixel));
        return static_cast<float>(pixel);
    }

    void read_type(const std::string& path) {
        const std::string type = detail::field(header_, "type"), endian = detail::field(header_, "endian");
        if (type == "short" || type == "int16") type_ = Type::int16;
        else if (type == "float") type_ = Type::float32;
        else if (type == "uchar" || type == "unsigned char" || type == "uint8") type_ = Type::uint8;
        else if (type == "ushort" || type == "unsigned short" || type == "uint16") type_ = Type::uint16;
        else throw std::runtime_error(path + " has pixels of another type than uint8, int16, uint16 and float");
        if (detail::field(header_, "encoding") != "raw") throw std::runtime_error(path + " isn't raw");
        if (type_ != Type::uint8 && endian != (detail::is_big_endian() ? "big" : "little"))
            throw std::runtime_error(path + " has another byte order than this machine");
    }

    void read_sizes(const std::string& path) {
        const std::string sizes = detail::field(header_, "sizes");
        const char* place = sizes.c_str();
        for (std::ptrdiff_t* size : {&columns_, &rows_, &slices_}) {
            char* next = nullptr;
            const long long found = std::strtoll(place, &next, 10);
            const bool is_last_of_two = size == &slices_ && next == place;
            if (!is_last_of_two && (found < 1 || found > kMaxSize)) throw std::runtime_error(path + " has bad sizes");
            *size = is_last_of_two ? 1 : static_cast<std::ptrdiff_t>(found);
            place = next;
        }
    }

    static constexpr long long kMaxSize = 1 << 20;

    detail::Mapping file_;
    std::string header_;
    Type type_ = Type::int16;
    std::ptrdiff_t columns_ = 1, rows_ = 1, slices_ = 1;
    const char* pixels_ = nullptr;
};

/// The output, on the grid of `like`; complete when it is destroyed. Pixels are zero at first.
template <class Pixel>
class Output {
  public:
    Output(const std::string& path, const Volume& like)
        : header_(header_of(like)),
          file_(path, header_.size() + static_cast<std::size_t>(like.count()) * sizeof(Pixel)) {
        std::memcpy(file_.start(), header_.data(), header_.size());
        pixels_ = reinterpret_cast<Pixel*>(file_.start() + header_.size());
    }

    Pixel* data() const { return pixels_; }
    Pixel& operator[](std::ptrdiff_t index) const { return pixels_[index]; }

  private:
    static std::string header_of(const Volume& like) {
        std::string text = "NRRD0004\ntype: " + std::string(detail::name_of(detail::type_of<Pixel>())) +
                           "\ndimension: 3\n" + like.placement() + "sizes: " + std::to_string(like.columns()) + " " +
                           std::to_string(like.rows()) + " " + std::to_string(like.slices()) +
                           "\nendian: " + (detail::is_big_endian() ? "big" : "little") + "\nencoding: raw\n#";
        text.append(kAlignment - (text.size() + 2) % kAlignment, '.');  // so that pixels are aligned
        return text + "\n\n";
    }

    static constexpr std::size_t kAlignment = 64;

    std::string header_;
    detail::Mapping file_;
    Pixel* pixels_ = nullptr;
};

/// The job's parameters: the numbers at the top of a JSON object. Nested values are skipped, not read.
class Parameters {
  public:
    explicit Parameters(std::string json) : json_(std::move(json)) {}

    /// Those of the job that this process was started for; none outside the platform.
    static Parameters of_job() {
        const char* path = std::getenv("MIP_PARAMETERS");
        if (path == nullptr) return Parameters("{}");
        std::ifstream file(path, std::ios::binary);
        if (!file) throw std::runtime_error("the file named in MIP_PARAMETERS can't be read");
        return Parameters(std::string(std::istreambuf_iterator<char>(file), {}));
    }

    /// The number called `name`, or `otherwise`. std::runtime_error if it is there and no number.
    double number(const std::string& name, double otherwise) const {
        std::size_t place = json_.find('{');
        if (place == std::string::npos) return otherwise;
        int depth = 0;
        for (bool is_name = true; place < json_.size(); ++place) {
            const char c = json_[place];
            if (c == '"') {
                const std::size_t end = end_of_string(place);
                const bool found = depth == 1 && is_name && json_.compare(place + 1, end - place - 1, name) == 0;
                place = end;
                if (found) return number_after(place, name);
            } else if (c == '{' || c == '[') {
                ++depth;
            } else if (c == '}' || c == ']') {
                --depth;
            } else if (c == ':' || c == ',') {
                is_name = c == ',';
            }
        }
        return otherwise;
    }

  private:
    std::size_t end_of_string(std::size_t quote) const {
        std::size_t place = quote + 1;
        while (place < json_.size() && json_[place] != '"') place += json_[place] == '\\' ? 2 : 1;
        if (place >= json_.size()) throw std::runtime_error("the parameters are no JSON");
        return place;
    }

    double number_after(std::size_t place, const std::string& name) const {
        ++place;
        while (place < json_.size() && (std::isspace(static_cast<unsigned char>(json_[place])) || json_[place] == ':'))
            ++place;
        char* end = nullptr;
        const char* start = json_.c_str() + place;
        const bool begins = *start == '-' || std::isdigit(static_cast<unsigned char>(*start));
        const double value = begins ? std::strtod(start, &end) : 0;
        if (!begins || end == start) throw std::runtime_error("the parameter " + name + " must be a number");
        return value;
    }

    std::string json_;
};

/// The main program of an algorithm: `work(input, parameters, path of the output)`.
template <class Work>
int run(int argc, char** argv, Work work) {
    if (argc != 3) {
        std::cerr << "usage: " << argv[0] << " INPUT OUTPUT" << std::endl;
        return 2;
    }
    try {
        const Volume input(argv[1]);
        work(input, Parameters::of_job(), argv[2]);
        return 0;
    } catch (const std::exception& error) {
        std::cerr << error.what() << std::endl;
        return 1;
    }
}

}  // namespace mip
