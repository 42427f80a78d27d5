#!/usr/bin/env bash
# The AMX kernels on an emulated processor, for machines without AMX: boots Linux under Bochs and runs
# the native tests there with LOWRANK_ISA=amx. How to get the parts: docs/amx-emulator.md.
# Usage: BOCHS=<bochs> BXSHARE=<its bios folder> KERNEL=<bzImage> scripts/test_amx_emulator.sh
#        [<executable> <part of a test's name>]...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
: "${BOCHS:?path of bochs}" "${BXSHARE:?folder of its bios}" "${KERNEL:?path of a Linux bzImage}"
export BXSHARE
[ $# -gt 0 ] || set -- ops_test device_opens ops_test linear_forward_kernels \
  ops_test linear_backward_kernels ops_test head_loss ops_test attention_kernels \
  attention_tiles_test bf16_agree
seconds=${SECONDS_LIMIT:-3600}
build=$root/build/static work=$root/build/amx-emulator

options=(-DLOWRANK_TESTS=ON -DLOWRANK_C_LIBRARY=OFF -DCMAKE_EXE_LINKER_FLAGS=-static)
command -v ccache > /dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake -S "$root" -B "$build" "${options[@]}" > /dev/null
cmake --build "$build" --parallel "$(nproc)" --target ops_test attention_tiles_test

rm -rf "$work"
mkdir -p "$work"/{disk/isolinux,files/proc}
cp "$(command -v busybox)" "$work/files/busybox"  # linked statically
for name in ops_test attention_tiles_test; do
  strip -o "$work/files/$name" "$build/test/native/ops/$name"
done
{
  echo '#!/busybox sh'
  echo '/busybox mount -t proc none /proc; export LOWRANK_ISA=amx'
  echo '/busybox grep -m1 -o "amx[a-z_0-9]*" /proc/cpuinfo; /busybox uname -r'
  for ((i = 1; i < $#; i += 2)); do echo "/${!i} ${*:i+1:1} || echo run FAILED"; done
  echo 'echo all tests ran; /busybox sleep 5; /busybox poweroff -f'
} > "$work/files/init"
chmod +x "$work/files/init"
(cd "$work/files" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/disk/files.gz"
cp "$KERNEL" "$work/disk/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disk/isolinux"
# clearcpuid: with ERMS, HLE and FSRM (297, 292, 580) the kernel's memory gets corrupted under Bochs.
cat > "$work/disk/isolinux/isolinux.cfg" << END
DEFAULT linux
LABEL linux
 KERNEL /vmlinuz
 APPEND initrd=/files.gz console=ttyS0,115200 nokaslr mitigations=off tsc=reliable lpj=1000000 no_timer_check random.trust_cpu=on clearcpuid=297,580,292 panic=-1
END
xorriso -as mkisofs -quiet -o "$work/disk.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
  -no-emul-boot -boot-load-size 4 -boot-info-table "$work/disk" 2> /dev/null
cat > "$work/bochsrc" << END
display_library: nogui
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest.bin
cpu: model=sapphire_rapids, ips=200000000, exclude_features="waitpkg,uintr,la57,pcid,invpcid,pku,pks,cet"
memory: guest=2048, host=2048
ata0-master: type=cdrom, path=$work/disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
clock: sync=none, time0=946684800
log: $work/bochs.log
panic: action=fatal
END
"$BOCHS" -q -f "$work/bochsrc" > "$work/bochs.out" 2>&1 &
bochs=$!
trap 'kill $bochs 2> /dev/null || true' EXIT
while ((SECONDS < seconds)) && kill -0 $bochs 2> /dev/null; do
  grep -q '^all tests ran' "$work/serial.txt" 2> /dev/null && break
  sleep 2
done
sed -n '/^amx/,$p' "$work/serial.txt"
grep -q '^all tests ran' "$work/serial.txt" && ! grep -q 'FAILED' "$work/serial.txt"
