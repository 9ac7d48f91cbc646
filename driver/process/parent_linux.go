package process

import "syscall"

// dieWithParent has the kernel kill a process when the thread that started it ends. A worker exits when its connection ends, but
// one that is stuck in the kernel, or whose user code has taken every thread, can't.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
