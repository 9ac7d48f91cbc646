#include "textflag.h"

// func int80(number int32) (result int32)
TEXT ·int80(SB), NOSPLIT, $0-12
	MOVL number+0(FP), AX
	INT  $0x80
	MOVL AX, result+8(FP)
	RET
