#include "pool/gpu_names.h"

#include <gtest/gtest.h>

#include <string_view>

namespace quad::pool {
namespace {

struct Spelling {
  std::string_view driver;
  std::string_view canonical;
};

TEST(GpuNames, AreThoseThatTaskFilesUse) {
  const Spelling spellings[] = {
      {"NVIDIA GB300", "GB300"},
      {"NVIDIA GB200", "GB200"},
      {"NVIDIA B300 SXM6 AC", "B300"},
      {"NVIDIA B200", "B200"},
      {"NVIDIA GH200 480GB", "GH200"},
      {"NVIDIA H200", "H200"},
      {"NVIDIA H200 NVL", "H200"},
      {"NVIDIA H100 80GB HBM3", "H100"},
      {"NVIDIA H100 PCIe", "H100"},
      {"NVIDIA H100 NVL", "H100"},
      {"NVIDIA H20-3e", "H20"},
      {"NVIDIA A100-SXM4-80GB", "A100-80GB"},
      {"NVIDIA A100 80GB PCIe", "A100-80GB"},
      {"NVIDIA-A100-SXM4-80GB", "A100-80GB"},
      {"NVIDIA A100-SXM4-40GB", "A100"},
      {"A100-PCIE-40GB", "A100"},
      {"NVIDIA A10G", "A10G"},
      {"NVIDIA A10", "A10"},
      {"NVIDIA A16-8C", "A16"},
      {"NVIDIA A30", "A30"},
      {"NVIDIA A40", "A40"},
      {"NVIDIA L4", "L4"},
      {"NVIDIA L40", "L40"},
      {"NVIDIA L40S", "L40S"},
      {"Tesla T4", "T4"},
      {"Tesla V100-SXM2-16GB", "V100"},
      {"Tesla V100-SXM2-32GB", "V100-32GB"},
      {"Tesla V100-PCIE-16GB", "V100"},
      {"Tesla P100-PCIE-16GB", "P100"},
      {"Tesla P4", "P4"},
      {"Tesla P40", "P40"},
      {"Tesla K80", "K80"},
      {"NVIDIA RTX A6000", "A6000"},
      {"NVIDIA RTX A4000", "A4000"},
      {"NVIDIA RTX 6000 Ada Generation", "RTX6000-Ada"},
      {"NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"},
      {"Quadro RTX 6000", "RTX6000"},
      {"NVIDIA GeForce RTX 4090", "RTX4090"},
      {"GeForce RTX 3090", "RTX3090"},
      {"NVIDIA GeForce RTX 3080 Ti", "RTX3080-TI"},
      {"NVIDIA GeForce GTX 1080 Ti", "GTX1080-TI"},
      {"NVIDIA TITAN V", "TITAN-V"},
      {"AMD Instinct MI300X OAM", "MI300X"},
      {"AMD Instinct MI250X/MI250", "MI250X"},
      {"AMD Radeon RX 7900 XTX", "RX7900-XTX"},
      {"gfx942", "GFX942"},
      {"h100", "H100"},
      {"A100-80GB", "A100-80GB"},
      {"", ""},
      {"NVIDIA Graphics", ""},
  };
  for (const Spelling& one : spellings) {
    EXPECT_EQ(canonical_gpu(one.driver), one.canonical) << one.driver;
  }
}

TEST(GpuNames, OfTheFieldStayAsTheyAre) {
  for (const std::string_view name : {"A100-80GB", "A100", "H100", "V100-32GB", "RTX6000-Ada",
                                      "RTX4090", "MI300X", "L40S", "T4g"}) {
    EXPECT_EQ(canonical_gpu(name), name);
  }
}

TEST(GpuNames, DoNotMistakeAPartOfAWordForAModel) {
  EXPECT_EQ(canonical_gpu("NVIDIA XT4"), "XT4");
  EXPECT_EQ(canonical_gpu("NVIDIA L400"), "L400");
}

TEST(GpuNames, KnowAmdsDevicesByNumber) {
  EXPECT_EQ(amd_gpu_model(0x74a1), "MI300X");
  EXPECT_EQ(amd_gpu_model(0x740f), "MI210");
  EXPECT_EQ(amd_gpu_model(1), "");
}

}  // namespace
}  // namespace quad::pool
