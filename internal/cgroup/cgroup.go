// Package cgroup finds the control groups that this process is in. Its audience is drivers that run sandboxes on this
// machine.
package cgroup
