# Python's own tests of the modules in $MODULES: how many there are, and which of them do not pass, with the reason.
exec 2>&1
export LC_ALL=C.UTF-8 HOME=/root
cd /tmp || exit
cat >/tmp/outcomes.py <<'END'
import io
import re
import sys
import unittest


class Outcomes(unittest.TextTestResult):
    """Collects what is not a success."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.found = []

    def _note(self, test, word, reason):
        # These count milliseconds, which an emulated CPU does not keep.
        if ".TimerfdTests." in test.id():
            return
        # Numbers, addresses and names of temporary files differ from run to run.
        reason = re.sub(r"0x[0-9a-f]+|\d+|/tmp/\S+|@test\S+", "N", reason)
        self.found.append(f"{test.id()}: {word}: {reason}")

    def addFailure(self, test, error):
        self._note(test, "fails", str(error[1]).partition("\n")[0])

    def addError(self, test, error):
        self._note(test, "error", f"{error[0].__name__}: {str(error[1]).partition(chr(10))[0]}")

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self._note(subtest, "fails", f"{error[0].__name__}: {str(error[1]).partition(chr(10))[0]}")

    def addSkip(self, test, reason):
        self._note(test, "skipped", reason)


# Tests start processes that read this file again.
if __name__ == "__main__":
    tests = unittest.defaultTestLoader.loadTestsFromName(f"test.{sys.argv[1]}")
    result = unittest.TextTestRunner(stream=io.StringIO(), resultclass=Outcomes).run(tests)
    print(f"== {sys.argv[1]}: {result.testsRun} tests")
    print(*sorted(result.found), sep="\n", flush=True)
END
for module in $MODULES; do
    timeout -k 5 1200 python3 /tmp/outcomes.py "$module" </dev/null >/tmp/out 2>/tmp/errors
    status=$?
    # What the tests themselves print comes before.
    sed -n '/^== /,$p' /tmp/out
    ((status == 0)) || { echo "$module ends with $status"; tail -n 3 /tmp/errors; }
done
echo end
