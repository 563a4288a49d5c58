"""scripts/check_style finds what it claims to find: each case is a small tree with one fault."""
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOOD_H = "/* A header. */\n#ifndef A_H\n#define A_H\n#include <stddef.h>\nsize_t kn_a(void);\n#endif\n"
GOOD_C = '/* A file. */\n#include "kernels/a.h"\n\nsize_t kn_a(void) {\n    return 1;\n}\n'
STATUS_H = "/* Floor. */\n#ifndef S_H\n#define S_H\n#endif\n"


def check(files, message=None):
    """Findings for the good tree plus `files`."""
    tree = {"kernels/a.h": GOOD_H, "kernels/a.c": GOOD_C, "kernels/base/status.h": STATUS_H}
    tree.update(files)
    with tempfile.TemporaryDirectory() as root:
        for name, text in tree.items():
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(text if isinstance(text, bytes) else text.encode("utf-8"))
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        if message:
            commit = git + ["commit", "-q", "--allow-empty", "-m", message]
            subprocess.run(commit, cwd=root, check=True)
        run = subprocess.run(
            [sys.executable, os.path.join(ROOT, "scripts", "check_style"), "--root", root],
            capture_output=True,
            text=True,
            check=False,
        )
    lines = run.stdout.splitlines()
    assert run.returncode == (1 if lines else 0), (run.returncode, run.stdout, run.stderr)
    return lines


def c_body(line):
    return "/* B. */\nint kn_b(int x);\nint kn_b(int x) {\n    %s\n    return x;\n}\n" % line


class CheckStyle(unittest.TestCase):
    def expect(self, files, where, words, message=None):
        lines = check(files, message)
        self.assertEqual(len(lines), 1, lines)
        self.assertTrue(lines[0].startswith(where), lines)
        self.assertIn(words, lines[0])

    def test_clean_tree(self):
        self.assertEqual(check({}, "Add a thing\n\nFor a reason."), [])

    def test_web(self):
        self.expect({"server/web/a.js": "e.innerHTML = x;\n"}, "server/web/a.js:1:", "markup")
        self.expect({"server/web/a.js": "\nfetch('http://x/');\n"}, "server/web/a.js:2:", "outside")
        self.expect({"server/web/a.js": "eval(x);\n"}, "server/web/a.js:1:", "runs text")
        self.expect({"server/web/a.html": '<p style="x">\n'}, "server/web/a.html:1:", "policy")
        self.expect({"server/web/a.css": "a{} \n"}, "server/web/a.css:1:", "trailing space")

    def test_text(self):
        self.expect({"README.md": "a \n"}, "README.md:1:", "trailing space")
        self.expect({"README.md": "a\tb\n"}, "README.md:1:", "tab")
        self.expect({"README.md": "a"}, "README.md:1:", "no newline")
        self.expect({"README.md": "a\n\n"}, "README.md:2:", "empty line")
        self.expect({"README.md": "a\r\nb\n"}, "README.md:1:", "carriage return")
        self.expect({"README.md": "a\u200bb\n"}, "README.md:1:", "U+200B")
        self.expect({"README.md": b"a\xff\n"}, "README.md:1:", "not UTF-8")
        self.expect({"scripts/go": "#!/bin/sh\na \n"}, "scripts/go:2:", "trailing space")
        self.assertEqual(check({"tests/data/x.txt": "a \t"}), [])

    def test_length(self):
        self.expect({"kernels/b.c": "/* B. */\n" + "int kn_b;\n" * 800}, "kernels/b.c:", "801")
        self.expect({"kernels/b.c": "/* %s */\n" % ("x" * 95)}, "kernels/b.c:1:", "columns")

    def test_layers(self):
        low = {"model/m.h": "/* M. */\n#ifndef M_H\n#define M_H\n#endif\n"}
        for path, name in [
            ("kernels/b.c", "model/m.h"),
            ("kernels/base/b.c", "kernels/a.h"),
            ("tokenizer/b.c", "kernels/a.h"),
            ("tokenizer/b.c", "model/m.h"),
            ("model/b.c", "tokenizer/tok.h"),
        ]:
            files = dict(low)
            files[path] = '/* B. */\n#include "%s"\n' % name
            self.expect(files, path + ":2:", "must not include")
        ok = dict(low)
        ok["server/engine/b.c"] = '/* B. */\n#include "model/m.h"\n#include "kernels/a.h"\n'
        self.assertEqual(check(ok), [])
        bare = {"kernels/b.c": '/* B. */\n#include "a.h"\n'}
        self.expect(bare, "kernels/b.c:2:", "path from the root")
        private = {"server/http/b.c": '/* B. */\n#include "tokenizer/tok_impl.h"\n'}
        self.expect(private, "server/http/b.c:2:", "private to tokenizer")

    def test_fences(self):
        for path, name in [
            ("model/b.c", "cjson/cJSON.h"),
            ("server/engine/b.c", "cjson/cJSON.h"),
            ("server/engine/b.c", "microhttpd.h"),
            ("tokenizer/b.cc", "sentencepiece_processor.h"),
            ("kernels/b.c", "cuda_runtime.h"),
        ]:
            files = {path: "/* B. */\n#include <%s>\n" % name}
            self.expect(files, path + ":2:", "outside its fence")
        ok = {
            "model/config.c": "/* B. */\n#include <cjson/cJSON.h>\n",
            "server/http/b.c": "/* B. */\n#include <microhttpd.h>\n",
            "tokenizer/tok_spm.cc": "// B.\n#include <sentencepiece_processor.h>\n",
        }
        self.assertEqual(check(ok), [])

    def test_cycle(self):
        header = '/* H. */\n#ifndef %s\n#define %s\n#include "kernels/%s.h"\n#endif\n'
        files = {"kernels/p.h": header % ("P", "P", "q"), "kernels/q.h": header % ("Q", "Q", "p")}
        self.expect(files, "kernels/q.h:", "include cycle")

    def test_calls(self):
        for line, words in [
            ("strcpy(p, q);", "strcpy"),
            ("sprintf(p, q);", "sprintf"),
            ("x = atoi(p);", "atoi"),
            ("x = rand();", "rand"),
            ("system(p);", "system"),
            ("x = item->valueint;", "valueint"),
            ("cJSON_GetObjectItem(o, k);", "cJSON_GetObjectItem"),
            ("cJSON_GetArrayItem(o, 1);", "cJSON_GetArrayItem"),
            ("exit(1);", "exit"),
        ]:
            self.expect({"kernels/b.c": c_body(line)}, "kernels/b.c:4:", words)
        for line in [
            "snprintf(p, n, q);",
            "/* strcpy( is not used */",
            'puts("system(");',
            "cJSON_GetObjectItemCaseSensitive(o, k);",
            "_exit(1);",
            "operand(x);",
        ]:
            self.assertEqual(check({"kernels/b.c": c_body(line)}), [], line)
        self.assertEqual(check({"server/cli/b.c": c_body("exit(1);")}), [])

    def test_opening_comment(self):
        self.expect({"kernels/b.c": "int kn_b;\n"}, "kernels/b.c:1:", "opening comment")

    def test_header_alone(self):
        text = "/* H. */\n#ifndef H\n#define H\nsize_t kn_h(void);\n#endif\n"
        self.expect({"kernels/h.h": text}, "kernels/h.h:", "does not compile alone")
        text = "/* H. */\nenum { KN_H = 1 };\n"  # no include guard
        self.expect({"kernels/h.h": text}, "kernels/h.h:", "does not compile alone")

    def test_long_function(self):
        body = "/* B. */\n"
        for i in range(19):
            body += "int kn_%d(void) {\n    return 1;\n}\n" % i
        body += "int kn_long(void) {\n" + "    kn_0();\n" * 130 + "}\n"
        self.expect({"kernels/b.c": body}, "kernels/b.c:59:", "function of 132 lines")

    def test_commit_subject(self):
        self.expect({}, "HEAD:", "full stop", "Add a thing.")
        self.expect({}, "HEAD:", "capital", "add a thing")
        self.expect({}, "HEAD:", "imperative", "Added a thing")
        self.expect({}, "HEAD:", "characters", "Add " + "x" * 70)
        self.expect({}, "HEAD:", "no empty line", "Add a thing\nbecause")

    def test_symbols(self):
        source = "int eng_good(void);\nint eng_good(void) { return MHD_stop(); }\nint bad_name;\n"
        with tempfile.TemporaryDirectory() as build:
            folder = os.path.join(build, "server", "engine")
            os.makedirs(folder)
            with open(os.path.join(folder, "e.c"), "w", encoding="utf-8") as f:
                f.write("int MHD_stop(void);\n" + source)
            for cmd in (["cc", "-c", "e.c"], ["ar", "rc", "libtnl_engine.a", "e.o"]):
                subprocess.run(cmd, cwd=folder, check=True)
            script = os.path.join(ROOT, "scripts", "check_style")
            cmd = [sys.executable, script, "--build", build]
            run = subprocess.run(cmd, capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 1)
        self.assertIn("bad_name does not begin with eng_", run.stdout)
        self.assertIn("uses MHD_stop", run.stdout)
        self.assertEqual(len(run.stdout.splitlines()), 2, run.stdout)


if __name__ == "__main__":
    unittest.main()
