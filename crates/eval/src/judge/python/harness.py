# Reads a nonce and a program, runs the program, and reports the result, prefixed with the nonce, on standard
# output. The output of the program itself is discarded.
def main():
    import os, sys
    sys.path = [path for path in sys.path if path]
    report = os.dup(1)
    os.dup2(2, 1)
    nonce, program = sys.stdin.buffer.read().split(b"\n", 1)
    text = ""
    try:
        exec(compile(program, "answer.py", "exec"), {})
        kind = "right"
    except AssertionError:
        kind = "wrong"
    except BaseException as error:
        kind = "raised"
        if isinstance(error, MemoryError):
            kind = "memory"
        if isinstance(error, PermissionError):
            kind = "refused"
        try:
            text = (type(error).__name__ + ": " + str(error))[:500]
        except BaseException:
            pass
    os.write(report, nonce + (kind + " " + text).encode("utf-8", "replace"))
    os._exit(0)
main()
