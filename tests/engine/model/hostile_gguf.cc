// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/model/hostile_gguf.h"

#include <limits>

#include "tests/support/gguf_writer.h"

namespace farspan {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ4_0 = 2;

GgufBytes Header(uint64_t num_tensors, uint64_t num_keys) {
  return GgufBytes().Raw("GGUF").U32(3).U64(num_tensors).U64(num_keys);
}

GgufBytes Key(GgufValueType type, std::string_view key = "some.key") { return Header(0, 1).Text(key).Type(type); }

GgufBytes Array(uint32_t element_type, uint64_t count) {
  return Key(GgufValueType::kArray).U32(element_type).U64(count);
}

GgufBytes& Tensor(GgufBytes& file, std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                  uint64_t offset) {
  file.Text(name).U32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) file.U64(dim);
  return file.U32(type).U64(offset);
}

// One tensor and `data_bytes` of data.
std::string OneTensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset,
                      size_t data_bytes) {
  GgufBytes file = Header(1, 0);
  return Tensor(file, name, dims, type, offset).PadTo(32).Raw(std::string(data_bytes, '\0')).bytes();
}

std::string TwoTensors(std::string_view first, std::string_view second, uint64_t second_offset) {
  GgufBytes file = Header(2, 0);
  Tensor(file, first, {16}, kF32, 0);
  return Tensor(file, second, {16}, kF32, second_offset).PadTo(32).Raw(std::string(128, '\0')).bytes();
}

void AddHeaderKinds(std::vector<HostileGguf>& files) {
  const auto versioned = [](uint32_t version) { return GgufBytes().Raw("GGUF").U32(version).U64(0).U64(0).bytes(); };
  files.push_back({"EmptyFile", "", {"header magic", "expected 4 bytes", "0 left"}});
  files.push_back({"FourByteFile", "GGUF", {"header version", "0 left"}});
  files.push_back({"BadMagic", "GGML" + std::string(20, '\0'), {"header magic", "'GGUF'", "'GGML'"}});
  files.push_back({"BigEndianMagic", "FUGG" + std::string(20, '\0'), {"header magic", "little-endian", "big-endian"}});
  files.push_back({"BigEndianVersion", versioned(0x03000000), {"header version", "little-endian", "big-endian"}});
  files.push_back({"Version0", versioned(0), {"header version", "2 or 3", "got 0"}});
  files.push_back({"Version1", versioned(1), {"header version", "2 or 3", "got 1"}});
  files.push_back({"Version99", versioned(99), {"header version", "2 or 3", "got 99"}});
  files.push_back({"TensorCountMinusOne", Header(kMax, 0).bytes(), {"header tensor count", "18446744073709551615"}});
  files.push_back({"KeyCountMinusOne", Header(0, kMax).bytes(), {"header key count", "18446744073709551615"}});
  files.push_back({"TensorCountAboveBytesLeft", Header(1000, 0).bytes(), {"header tensor count", "got 1000"}});
  files.push_back({"KeyCountAboveBytesLeft", Header(0, 1000).bytes(), {"header key count", "got 1000"}});
  files.push_back({"TensorCountAboveCap",
                   Header(100'001, 0).Raw(std::string(4'000'000, '\0')).bytes(),
                   {"header tensor count", "at most 100000", "got 100001"}});
}

void AddKeyKinds(std::vector<HostileGguf>& files) {
  using Type = GgufValueType;
  const auto named = [](std::string_view name) { return Header(0, 1).Text(name).Type(Type::kUint32).U32(1).bytes(); };
  files.push_back({"EmptyKeyName", named("") + std::string(8, '\0'), {"name of key 0", "printable ASCII", "''"}});
  files.push_back({"LongKeyName", named(std::string(257, 'k')), {"name of key 0", "at most 256", "got 257"}});
  files.push_back({"ControlCharacterInKey", named("a\nb"), {"name of key 0", "printable ASCII", "'a\\nb'"}});
  files.push_back({"KeyLengthAllOnes",
                   Header(0, 1).U64(kMax).Raw(std::string(16, 'x')).bytes(),
                   {"name of key 0", "at most 256", "18446744073709551615"}});
  files.push_back({"DuplicateKey",
                   Header(0, 2).Text("a.b").Type(Type::kBool).U8(1).Text("a.b").Type(Type::kBool).U8(1).bytes(),
                   {"key a.b", "a second one"}});
  files.push_back({"BadValueType", Key(Type{13}).U64(0).bytes(), {"key some.key", "value type", "got 13"}});
  files.push_back({"ValueTypeAllOnes", Key(Type{0xffffffff}).U64(0).bytes(), {"key some.key", "4294967295"}});
  files.push_back({"BoolTwo", Key(Type::kBool).U8(2).bytes(), {"key some.key", "0 or 1", "got 2"}});
  files.push_back({"ScalarCut", Key(Type::kUint64).U32(0).bytes(), {"key some.key", "expected 8 bytes", "4 left"}});
  files.push_back({"StringLengthAllOnes",
                   Key(Type::kString).U64(kMax).bytes(),
                   {"key some.key", "at most 1048576", "18446744073709551615"}});
  files.push_back({"StringPastEnd",
                   Key(Type::kString).U64(100).Raw("short").bytes(),
                   {"key some.key", "expected 100 bytes", "5 left"}});
  files.push_back({"StringAboveCap",
                   Key(Type::kString).Text(std::string((1 << 20) + 1, 'x')).bytes(),
                   {"key some.key", "at most 1048576", "got 1048577"}});
  files.push_back({"ArrayBomb", Array(0, uint64_t{1} << 40).bytes(), {"key some.key", "1099511627776"}});
  files.push_back({"ArrayCountMinusOne", Array(10, kMax).bytes(), {"key some.key", "18446744073709551615"}});
  // 2^61 elements of 8 bytes wrap to zero bytes where the product is not checked.
  files.push_back({"ArrayBytesWrap", Array(10, uint64_t{1} << 61).bytes(), {"key some.key", "2305843009213693952"}});
  files.push_back({"ArrayAboveBytesLeft", Array(4, 100).U64(0).bytes(), {"key some.key", "at most 2", "got 100"}});
  files.push_back({"StringArrayAboveBytesLeft", Array(8, 100).U64(0).bytes(), {"key some.key", "got 100"}});
  files.push_back({"StringArrayElementPastEnd", Array(8, 2).Text("a").U64(50).bytes(), {"key some.key", "50 bytes"}});
  files.push_back({"ArrayBadElementType", Array(77, 1).U64(0).bytes(), {"key some.key", "value type", "got 77"}});
  files.push_back({"NestedArray", Array(9, 1).U32(0).U64(1).U8(0).bytes(), {"key some.key", "array of arrays"}});
}

void AddAlignmentKinds(std::vector<HostileGguf>& files) {
  const auto aligned = [](uint32_t alignment) {
    return Key(GgufValueType::kUint32, "general.alignment").U32(alignment).bytes();
  };
  for (const uint32_t alignment : {0u, 1u, 13u, 0x80000000u}) {
    files.push_back({"Alignment" + std::to_string(alignment),
                     aligned(alignment),
                     {"key general.alignment", "power of two", "uint32 " + std::to_string(alignment)}});
  }
  files.push_back({"AlignmentIsText",
                   Key(GgufValueType::kString, "general.alignment").Text("32").bytes(),
                   {"key general.alignment", "uint32", "string '32'"}});
  files.push_back({"AlignmentIs64Bit",
                   Key(GgufValueType::kUint64, "general.alignment").U64(32).bytes(),
                   {"key general.alignment", "uint32", "uint64 32"}});
}

void AddTensorKinds(std::vector<HostileGguf>& files) {
  const std::string tensor = "tensor blk.0.w";
  const auto one = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset = 0, size_t data_bytes = 256) {
    return OneTensor("blk.0.w", dims, type, offset, data_bytes);
  };
  files.push_back({"EmptyTensorName", OneTensor("", {1}, kF32, 0, 64), {"name of tensor 0", "printable ASCII"}});
  files.push_back({"LongTensorName",
                   OneTensor(std::string(257, 't'), {1}, kF32, 0, 64),
                   {"name of tensor 0", "at most 256", "got 257"}});
  files.push_back({"NoDimensions", one({}, kF32), {tensor, "1 to 4 dimensions", "got 0"}});
  files.push_back({"FiveDimensions", one({1, 1, 1, 1, 1}, kF32), {tensor, "1 to 4 dimensions", "got 5"}});
  files.push_back({"ZeroDimension", one({4, 0}, kF32), {tensor, "dimensions from 1", "got 0"}});
  files.push_back({"DimensionMinusOne", one({kMax, 2}, kF32), {tensor, "2^63", "18446744073709551615"}});
  files.push_back({"DimensionProductWraps",
                   one({uint64_t{1} << 32, uint64_t{1} << 32}, kF32),
                   {tensor, "fewer than 2^63", "[4294967296, 4294967296]"}});
  files.push_back({"ByteProductWraps", one({uint64_t{1} << 62}, kF32), {tensor, "fewer than 2^63"}});
  files.push_back({"UnknownType", one({4}, 99), {tensor, "F32, F16", "type number 99"}});
  files.push_back({"RemovedType", one({32}, 4), {tensor, "F32, F16", "Q4_2 (4)"}});
  files.push_back({"UnsupportedType", one({256}, 20), {tensor, "F32, F16", "IQ4_NL (20)"}});
  files.push_back({"RowNotWholeBlocks", one({33}, kQ4_0), {tensor, "multiple of 32", "Q4_0", "[33]"}});
  files.push_back({"RowNotWholeSuperBlocks", one({32, 8}, 12), {tensor, "multiple of 256", "Q4_K", "[8, 32]"}});
  files.push_back({"OffsetMisaligned", one({4}, kF32, 16), {tensor, "multiple of 32", "got 16"}});
  files.push_back({"OffsetPastEnd", one({4}, kF32, 4096), {tensor, "16 bytes at offset 4096", "256 bytes"}});
  files.push_back({"OffsetWraps", one({4}, kF32, kMax - 31), {tensor, "offset 18446744073709551584"}});
  files.push_back({"TensorPastEnd", one({65}, kF32), {tensor, "260 bytes at offset 0", "256 bytes"}});
  files.push_back({"QuantisedTensorPastEnd", one({32, 15}, kQ4_0), {tensor, "270 bytes at offset 0", "256 bytes"}});
  files.push_back({"NoData", one({4}, kF32, 0, 0), {tensor, "16 bytes", "0 bytes"}});
  files.push_back({"DuplicateTensor", TwoTensors("w", "w", 64), {"tensor w", "a second one"}});
  files.push_back({"OverlappingTensors", TwoTensors("a", "b", 32), {"tensor b", "tensor a"}});
  files.push_back({"SameOffsetTensors", TwoTensors("a", "b", 0), {"tensor", "bytes that tensor"}});
  GgufBytes cut = Header(2, 0);
  Tensor(cut, "first", {1}, kF32, 0).Text("second").U32(4).U64(1).U64(1).U64(1);
  files.push_back({"DirectoryCut", cut.bytes(), {"tensor second", "0 left"}});
}

}  // namespace

std::vector<HostileGguf> HostileGgufFiles() {
  std::vector<HostileGguf> files;
  AddHeaderKinds(files);
  AddKeyKinds(files);
  AddAlignmentKinds(files);
  AddTensorKinds(files);
  return files;
}

std::string ValidGguf() {
  using Type = GgufValueType;
  GgufBytes file = Header(3, 14);
  file.Text("u8").Type(Type::kUint8).U8(200);
  file.Text("i8").Type(Type::kInt8).Value(int8_t{-100});
  file.Text("u16").Type(Type::kUint16).Value(uint16_t{60000});
  file.Text("i16").Type(Type::kInt16).Value(int16_t{-30000});
  file.Text("u32").Type(Type::kUint32).U32(4'000'000'000);
  file.Text("i32").Type(Type::kInt32).Value(int32_t{-2'000'000'000});
  file.Text("u64").Type(Type::kUint64).U64(kMax);
  file.Text("i64").Type(Type::kInt64).Value(int64_t{-5});
  file.Text("f32").Type(Type::kFloat32).F32(1.5f);
  file.Text("f64").Type(Type::kFloat64).Value(0.1);
  file.Text("bool").Type(Type::kBool).U8(1);
  file.Text("text").Type(Type::kString).Text("caf\xc3\xa9");
  file.Text("ints").Type(Type::kArray).Type(Type::kInt16).U64(3);
  file.Value(int16_t{1}).Value(int16_t{-2}).Value(int16_t{3});
  file.Text("texts").Type(Type::kArray).Type(Type::kString).U64(2).Text("a").Text("");
  Tensor(file, "f32.weight", {4, 3, 2}, kF32, 0);
  Tensor(file, "q4.weight", {64, 2}, kQ4_0, 160);
  Tensor(file, "f16.weight", {5}, 1, 96);
  std::string data(232, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i);
  return file.PadTo(32).Raw(data).bytes();
}

}  // namespace farspan
