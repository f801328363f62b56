// Hides AVX from the process that preloads it, so that XNNPACK takes the kernels that it
// takes on phones' CPUs: those for x86 without AVX, and with them the ones that skip
// zeros. Works on CPUs with CPUID faulting (Intel's since 2012), natively fast.
//
//   gcc -shared -fPIC -o without_avx.so without_avx.c; LD_PRELOAD=./without_avx.so ...
//
// Source: arch_prctl(2), ARCH_SET_CPUID.
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { kSetCpuid = 0x1012, kExitCode = 97 };

static const uint32_t kHidden =
    1u << 12 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29;  // FMA, XSAVE, AVX, F16C

static void Answer(int signal_number, siginfo_t* info, void* context) {
  greg_t* const registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  const uint8_t* const instruction = (const uint8_t*)registers[REG_RIP];
  if (instruction[0] != 0x0f || instruction[1] != 0xa2) {
    signal(signal_number, SIG_DFL);  // A fault of another kind: it happens again.
    return;
  }
  const uint32_t leaf = registers[REG_RAX];
  uint32_t a = leaf, b, c = registers[REG_RCX], d;
  syscall(SYS_arch_prctl, kSetCpuid, 1);
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  syscall(SYS_arch_prctl, kSetCpuid, 0);
  if (leaf == 1) c &= ~kHidden;
  if (leaf == 7) a = b = c = d = 0;  // AVX2 and all that came later.
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
  (void)info;
}

__attribute__((constructor)) static void Hide(void) {
  struct sigaction action = {.sa_sigaction = Answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  if (syscall(SYS_arch_prctl, kSetCpuid, 0) != 0) {
    perror("without_avx: this CPU, or its hypervisor, has no CPUID faulting");
    _exit(kExitCode);
  }
}
