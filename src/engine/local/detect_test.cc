#include "engine/local/detect.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <chrono>

#include "base/file.h"
#include "engine/local/nvidia.h"
#include "engine/local/spawn.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

// A /proc and a /sys of a machine that is not there.
class Detect : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "quad-detect-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    file("proc/meminfo", "MemTotal:       65536 kB\nMemFree:        1 kB\n");
    file("proc/self/cgroup", "0::/\n");
  }
  void TearDown() override {
    std::error_code failure;
    fs::remove_all(root_, failure);
  }

  void file(const fs::path& path, std::string_view text) const {
    fs::create_directories((root_ / path).parent_path());
    ASSERT_TRUE(write_file_atomically(root_ / path, text).ok()) << path;
  }
  fs::path program(const std::string& name, std::string_view text) const {
    file(name, text);
    ::chmod((root_ / name).c_str(), 0700);
    return root_ / name;
  }
  void nvidia(const std::string& bus, const std::string& model, const std::string& uuid) const {
    file("proc/driver/nvidia/gpus/" + bus + "/information",
         "Model: \t\t " + model + "\nIRQ:   \t\t 17\nGPU UUID: \t " + uuid +
             "\nVideo BIOS: \t ??.??\nBus Type: \t PCIe\nDevice Minor: \t 0\n");
  }
  void kfd(int node, std::string_view name, std::string_view properties) const {
    const fs::path folder = fs::path("sys/class/kfd/kfd/topology/nodes") / std::to_string(node);
    file(folder / "name", name);
    file(folder / "properties", properties);
  }
  DetectOptions options() const {
    DetectOptions options;
    options.proc = root_ / "proc";
    options.sys = root_ / "sys";
    options.nvml.clear();
    options.nvidia_smi.clear();
    options.cpus = 64;
    return options;
  }

  fs::path root_;
};

TEST_F(Detect, SeesAPlainMachine) {
  const Machine machine = detect_machine(options());
  EXPECT_EQ(machine.cpu_milli, 64'000);
  EXPECT_EQ(machine.memory_bytes, 64LL << 20U);
  EXPECT_TRUE(machine.gpus.empty());
  EXPECT_EQ(machine.gpu_env, "");
}

TEST_F(Detect, HoldsToTheTightestCgroupOnTheWayUp) {
  file("proc/self/cgroup", "0::/user.slice/me.scope\n");
  file("sys/fs/cgroup/user.slice/cpu.max", "400000 100000\n");
  file("sys/fs/cgroup/user.slice/me.scope/cpu.max", "max 100000\n");
  file("sys/fs/cgroup/user.slice/memory.max", "max\n");
  file("sys/fs/cgroup/user.slice/me.scope/memory.max", "1048576\n");
  const Machine machine = detect_machine(options());
  EXPECT_EQ(machine.cpu_milli, 4'000);
  EXPECT_EQ(machine.memory_bytes, 1 << 20);
}

TEST_F(Detect, HoldsToCgroupsOfTheOldKind) {
  file("proc/self/cgroup", "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n");
  // In a container only its own top is to be seen.
  file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
  file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  file("sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n");
  const Machine machine = detect_machine(options());
  EXPECT_EQ(machine.cpu_milli, 1'500);
  EXPECT_EQ(machine.memory_bytes, 2 << 20);
  file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(detect_machine(options()).cpu_milli, 64'000);
  EXPECT_EQ(detect_machine(options()).memory_bytes, 64LL << 20U);
}

TEST_F(Detect, SurvivesFilesThatMakeNoSense) {
  file("proc/meminfo", "MemTotal: lots\n");
  file("proc/self/cgroup", "garbage\n::\n0:\n");
  file("sys/fs/cgroup/cpu.max", "");
  file("proc/driver/nvidia/gpus/x/information", "no model here");
  kfd(1, "", "simd_count many");
  const Machine machine = detect_machine(options());
  EXPECT_EQ(machine.cpu_milli, 64'000);
  EXPECT_EQ(machine.memory_bytes, 0);
  EXPECT_TRUE(machine.gpus.empty());
}

TEST_F(Detect, FindsNvidiaGpusByTheirDriverInBusOrder) {
  nvidia("0000:65:00.0", "NVIDIA A100-SXM4-80GB", "GPU-bbbb");
  nvidia("0000:3b:00.0", "NVIDIA A100-SXM4-80GB", "GPU-aaaa");
  const Machine machine = detect_machine(options());
  ASSERT_EQ(machine.gpus.size(), 2U);
  EXPECT_EQ(machine.gpus[0].uuid, "GPU-aaaa");
  EXPECT_EQ(machine.gpus[0].bus_id, "0000:3b:00.0");
  EXPECT_EQ(machine.gpus[0].index, 0);
  EXPECT_EQ(machine.gpus[1].index, 1);
  EXPECT_EQ(machine.gpus[1].model, "A100-80GB");
  EXPECT_EQ(machine.gpu_env, "CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(machine.gpu_source, "the driver");
}

TEST_F(Detect, AsksNvidiaSmiWhereNothingElseTells) {
  DetectOptions with_program = options();
  with_program.nvml = "libquad-has-no-such-library.so";
  with_program.nvidia_smi = program(
      "smi",
      "#!/bin/sh\ncase \"$1\" in --query-gpu=index,name,uuid,pci.bus_id,memory.total) ;; *) "
      "exit 1;; esac\n"
      "echo '0, NVIDIA H100 80GB HBM3, GPU-1, 00000000:1B:00.0, 81559'\n"
      "echo '1, NVIDIA GB10, GPU-2, 00000000:43:00.0, [N/A]'\n");
  const Machine machine = detect_machine(with_program);
  ASSERT_EQ(machine.gpus.size(), 2U);
  EXPECT_EQ(machine.gpus[0].model, "H100");
  EXPECT_EQ(machine.gpus[0].bus_id, "0000:1b:00.0");
  EXPECT_EQ(machine.gpus[0].memory_bytes, 81559LL << 20U);
  EXPECT_EQ(machine.gpus[1].memory_bytes, 0);
  EXPECT_EQ(machine.gpu_source, "nvidia-smi");
}

TEST_F(Detect, DoesNotWaitForAProgramThatHangs) {
  DetectOptions with_program = options();
  with_program.limit = Millis(50);
  const auto begin = std::chrono::steady_clock::now();
  with_program.nvidia_smi = program("hangs", "#!/bin/sh\nexec sleep 60\n");
  EXPECT_TRUE(detect_machine(with_program).gpus.empty());
  // Nor for one that closes its output first.
  with_program.nvidia_smi = program("closes", "#!/bin/sh\nexec sleep 60 >&-\n");
  EXPECT_TRUE(detect_machine(with_program).gpus.empty());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST_F(Detect, TellsHowAProgramFailed) {
  EXPECT_EQ(output_of({"quad-has-no-such-program"}, Millis(10'000)).error().code,
            ErrorCode::kNotFound);
  EXPECT_EQ(output_of({"false"}, Millis(10'000)).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(output_of({"sleep", "60"}, Millis(10)).error().code, ErrorCode::kTimeout);
  EXPECT_EQ(output_of({"echo", "a  b"}, Millis(10'000)).value_or(""), "a  b\n");
}

TEST_F(Detect, RefusesALibraryThatIsNotNvidias) {
  EXPECT_EQ(gpus_of_nvml("libquad-has-no-such-library.so", Millis(10'000)).error().code,
            ErrorCode::kNotFound);
  EXPECT_EQ(gpus_of_nvml("libc.so.6", Millis(10'000)).error().code, ErrorCode::kUnavailable);
}

// A library with NVIDIA's names, compiled here; skips the test where there is no compiler.
#define MAKE_LIBRARY(path, init)                                                        \
  file("nvml.c", std::string(kLibrary) + "int nvmlInit_v2(void) {" + (init) + "}\n");   \
  if (!output_of({"cc", "-shared", "-fPIC", "-o", (path), (root_ / "nvml.c").string()}, \
                 Millis(60'000))                                                        \
           .ok()) {                                                                     \
    GTEST_SKIP() << "no C compiler";                                                    \
  }

constexpr const char* kLibrary = R"(
  #include <stdio.h>
  #include <unistd.h>
  int nvmlShutdown(void) { return 0; }
  int nvmlDeviceGetCount_v2(unsigned* count) { *count = 3; return 0; }
  int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
    *device = (void*)(unsigned long)(index + 1);
    return index == 1 ? 15 : 0;  /* the second is lost */
  }
  int nvmlDeviceGetName(void* device, char* name, unsigned size) {
    snprintf(name, size, "NVIDIA H200");
    return 0;
  }
  int nvmlDeviceGetUUID(void* device, char* uuid, unsigned size) {
    snprintf(uuid, size, "GPU-%lu", (unsigned long)device);
    return 0;
  }
  int nvmlDeviceGetMemoryInfo(void* device, unsigned long long* memory) {
    memory[0] = 150754820096ull, memory[1] = 1, memory[2] = 2;
    return 0;
  }
  struct pci { char legacy[16]; unsigned numbers[5]; char bus[32]; };
  int nvmlDeviceGetPciInfo_v3(void* device, struct pci* pci) {
    snprintf(pci->bus, sizeof pci->bus, "00000000:%02lX:00.0", 0x1a + (unsigned long)device);
    return 0;
  }
)";

TEST_F(Detect, AsksNvidiasLibraryFirst) {
  nvidia("0000:01:00.0", "NVIDIA L4", "GPU-of-the-driver");
  DetectOptions with_library = options();
  with_library.nvml = (root_ / "nvml.so").string();
  MAKE_LIBRARY(with_library.nvml, "return 0;");
  const Machine machine = detect_machine(with_library);
  EXPECT_EQ(machine.gpu_source, "NVML");
  ASSERT_EQ(machine.gpus.size(), 2U);
  EXPECT_EQ(machine.gpus[0].model, "H200");
  EXPECT_EQ(machine.gpus[0].memory_bytes, 150754820096);
  EXPECT_EQ(machine.gpus[0].bus_id, "0000:1b:00.0");
  EXPECT_EQ(machine.gpus[1].uuid, "GPU-3");
  EXPECT_EQ(machine.gpus[1].index, 2) << "numbers stay when one GPU is lost";
  ASSERT_EQ(machine.remarks.size(), 1U);
  EXPECT_EQ(machine.remarks[0],
            "GPU 1 is not offered to jobs: it does not answer: the GPU has fallen off the bus; "
            "restart the machine");
}

TEST_F(Detect, SaysWhatIsWrongWithNvidiasDriver) {
  DetectOptions with_library = options();
  with_library.nvml = (root_ / "nvml.so").string();
  MAKE_LIBRARY(with_library.nvml, "return 18;");
  const Machine machine = detect_machine(with_library);
  EXPECT_TRUE(machine.gpus.empty());
  ASSERT_EQ(machine.remarks.size(), 1U);
  EXPECT_EQ(machine.remarks[0],
            "NVIDIA's management library does not work: the driver in the kernel and the library "
            "are of different versions, as after an update; restart the machine");
}

TEST_F(Detect, OffersNoGpuThatIsDividedIntoSlices) {
  nvidia("0000:01:00.0", "NVIDIA A100-SXM4-80GB", "GPU-a");
  file("proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "");
  EXPECT_TRUE(detect_machine(options()).gpus.empty());
  DetectOptions with_library = options();
  with_library.nvml = (root_ / "nvml.so").string();
  // The first knows no slices, the second is lost, the third is in slices.
  const char* more = R"(return 0; }
    int nvmlDeviceGetMigMode(void* device, unsigned* current, unsigned* pending) {
      *current = device == (void*)3;
      *pending = 0;
      return device == (void*)1 ? 3 : 0;)";
  MAKE_LIBRARY(with_library.nvml, more);
  const Machine machine = detect_machine(with_library);
  ASSERT_EQ(machine.gpus.size(), 1U);
  EXPECT_EQ(machine.gpus[0].uuid, "GPU-1");
  ASSERT_EQ(machine.remarks.size(), 2U);
  EXPECT_EQ(machine.remarks[1].substr(0, 48), "GPU 2 is not offered to jobs: it is divided into");
}

TEST_F(Detect, CountsTheGpusThatItMayUseInTheOrderOfTheBus) {
  DetectOptions with_library = options();
  with_library.nvml = (root_ / "other.so").string();
  std::string text = kLibrary;
  text.replace(text.find("? 15"), 4, "? 4 ");
  text.replace(text.find("0x1a + "), 7, "0x1a - ");
  file("nvml.c", text + "int nvmlInit_v2(void) { return 0; }\n");
  if (!output_of({"cc", "-shared", "-fPIC", "-o", with_library.nvml, (root_ / "nvml.c").string()},
                 Millis(60'000))
           .ok()) {
    GTEST_SKIP() << "no C compiler";
  }
  const Machine machine = detect_machine(with_library);
  ASSERT_EQ(machine.gpus.size(), 2U);
  EXPECT_EQ(machine.gpus[0].uuid, "GPU-3");
  EXPECT_EQ(machine.gpus[0].bus_id, "0000:17:00.0");
  EXPECT_EQ(machine.gpus[1].uuid, "GPU-1");
  EXPECT_EQ(machine.gpus[1].index, 1);
  EXPECT_TRUE(machine.remarks.empty());
}

TEST_F(Detect, DoesNotWaitForALibraryThatHangs) {
  nvidia("0000:01:00.0", "NVIDIA L4", "GPU-of-the-driver");
  DetectOptions with_library = options();
  with_library.nvml = (root_ / "nvml.so").string();
  with_library.limit = Millis(50);
  MAKE_LIBRARY(with_library.nvml, "for (;;) pause();");
  EXPECT_EQ(detect_machine(with_library).gpu_source, "the driver");
  EXPECT_EQ(gpus_of_nvml(with_library.nvml, Millis(10)).error().code, ErrorCode::kTimeout);
}

TEST_F(Detect, RefusesAnAnswerOfNvidiaSmiThatIsNoList) {
  EXPECT_FALSE(parse_smi("NVIDIA-SMI has failed because it couldn't communicate\n").ok());
  EXPECT_FALSE(parse_smi("x, NVIDIA H100, GPU-1, 0, 1\n").ok());
  EXPECT_FALSE(parse_smi("-1, NVIDIA H100, GPU-1, 0, 1\n").ok());
  EXPECT_FALSE(parse_smi("0, NVIDIA H100, no, such, field\n").ok());
  EXPECT_FALSE(parse_smi("0, A, GPU-1, 0, 1\n0, A, GPU-2, 0, 1\n").ok());
  const auto sliced = parse_smi("0, A, GPU-1, 0, 1, Enabled\n1, A, GPU-2, 0, 1, [N/A]\n");
  ASSERT_TRUE(sliced.ok());
  EXPECT_NE((*sliced)[0].unusable, "");
  EXPECT_EQ((*sliced)[1].unusable, "");
  EXPECT_TRUE(parse_smi("\n").value_or({Gpu{}}).empty());
}

TEST_F(Detect, FindsAmdGpusAmongTheNodesOfTheirDriver) {
  kfd(0, "", "cpu_cores_count 96\nsimd_count 0\n");
  kfd(10, "ip discovery", "simd_count 1216\ndevice_id 29857\nlocation_id 61696\ndomain 0\n");
  kfd(2, "ip discovery",
      "simd_count 1216\ndevice_id 29857\nlocation_id 6912\ndomain 0\nlocal_mem_size 1024\n");
  kfd(11, "ip discovery", "simd_count 4\ndevice_id 1\ngfx_target_version 90402\n");
  file("sys/class/kfd/kfd/topology/nodes/10/mem_banks/0/properties",
       "heap_type 1\nsize_in_bytes 206141652992\n");
  const Machine machine = detect_machine(options());
  ASSERT_EQ(machine.gpus.size(), 3U);
  EXPECT_EQ(machine.gpus[0].model, "MI300X");
  EXPECT_EQ(machine.gpus[0].bus_id, "0000:1b:00.0");
  EXPECT_EQ(machine.gpus[0].memory_bytes, 1024);
  EXPECT_EQ(machine.gpus[1].bus_id, "0000:f1:00.0");
  EXPECT_EQ(machine.gpus[1].memory_bytes, 206141652992);
  EXPECT_EQ(machine.gpus[2].model, "GFX942");
  EXPECT_EQ(machine.gpu_env, "HIP_VISIBLE_DEVICES");
}

TEST_F(Detect, TakesOnlyTheGpusThatAnotherSchedulerGave) {
  nvidia("0000:01:00.0", "NVIDIA L4", "GPU-aaaa");
  nvidia("0000:02:00.0", "NVIDIA L4", "GPU-bbbb");
  nvidia("0000:03:00.0", "NVIDIA L4", "GPU-cccc");
  const auto visible = [&](std::string variable) {
    DetectOptions given = options();
    given.visible_nvidia = std::move(variable);
    std::string numbers;
    for (const Gpu& gpu : detect_machine(given).gpus) {
      numbers += std::to_string(gpu.index);
    }
    return numbers;
  };
  EXPECT_EQ(visible("2,0"), "02");
  EXPECT_EQ(visible(" GPU-b "), "1");
  EXPECT_EQ(visible("0,7,1"), "0");
  EXPECT_EQ(visible("1,2,1"), "") << "CUDA shows nothing then";
  EXPECT_EQ(visible("GPU-cccc,GPU-"), "2") << "the second could be any of them";
  EXPECT_EQ(visible("MIG-aaaa"), "") << "a slice is no GPU";
  EXPECT_EQ(visible(""), "");
  EXPECT_EQ(visible("-1"), "");
  EXPECT_EQ(visible("all"), "012");
}

// The library, the driver's files and the program, each asked alone on the machine as it is.
TEST(RealNvidia, IsTheSameWhoeverTells) {
  if (!fs::exists("/proc/driver/nvidia/version")) {
    GTEST_SKIP() << "this machine has no NVIDIA GPU";
  }
  DetectOptions all;
  const Machine told = detect_machine(all);
  EXPECT_EQ(told.gpu_source, "NVML");
  ASSERT_FALSE(told.gpus.empty());
  EXPECT_TRUE(told.remarks.empty()) << told.remarks.front();
  EXPECT_EQ(told.gpu_env, "CUDA_VISIBLE_DEVICES");
  const auto by_program = gpus_of_smi("nvidia-smi", all.limit);
  ASSERT_TRUE(by_program.ok()) << by_program.error().message;
  const std::vector<Gpu> by_driver = gpus_of_driver("/proc/driver/nvidia");
  ASSERT_EQ(by_program->size(), told.gpus.size());
  for (std::size_t i = 0; i < told.gpus.size(); ++i) {
    const Gpu& gpu = told.gpus[i];
    EXPECT_FALSE(gpu.model.empty()) << gpu.name;
    EXPECT_GT(gpu.memory_bytes, 1LL << 30);
    EXPECT_EQ((*by_program)[i].uuid, gpu.uuid);
    EXPECT_EQ((*by_program)[i].name, gpu.name);
    EXPECT_EQ((*by_program)[i].bus_id, gpu.bus_id);
    EXPECT_EQ((*by_program)[i].memory_bytes >> 20, gpu.memory_bytes >> 20);
  }
  // A machine's monitor may hide the folders of single GPUs.
  if (!by_driver.empty()) {
    ASSERT_EQ(by_driver.size(), told.gpus.size());
    for (std::size_t i = 0; i < told.gpus.size(); ++i) {
      EXPECT_EQ(by_driver[i].uuid, told.gpus[i].uuid);
      EXPECT_EQ(by_driver[i].bus_id, told.gpus[i].bus_id);
    }
  }
}

TEST(MainGpus, AreThoseOfTheModelThatThereAreMostOf) {
  const auto gpu = [](int index, std::string model) {
    Gpu one;
    one.index = index;
    one.model = std::move(model);
    return one;
  };
  const auto chosen = main_gpus({gpu(0, "T4"), gpu(1, "A100"), gpu(2, "A100")});
  ASSERT_EQ(chosen.size(), 2U);
  EXPECT_EQ(chosen[0].index, 1);
  EXPECT_EQ(main_gpus({gpu(0, "T4"), gpu(1, "A100")}).front().model, "T4");
  EXPECT_TRUE(main_gpus({}).empty());
}

}  // namespace
}  // namespace quad::engine
