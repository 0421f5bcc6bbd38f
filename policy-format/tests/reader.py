"""A reader of policy blobs, written from docs/format.md alone: Python 3 and its standard library.

    reader.py policy.bin < questions        a question is a line: profile, port, host (normalised)
    reader.py policy.bin settings           what each profile says that is not the default: profile, key and value (as JSON), tabs between them
    reader.py policy.bin sockets            the unix sockets that each profile denies: profile and path (as JSON), a tab between them

Answers each with access, pattern and place of the closest deny or else the closest allow, tabs between them, and whether that has conditions; or with `none`.
It decides by hosts, ports and profiles. It checks neither the structure nor the digest: BLAKE3 is not in the standard library.
"""
import functools, ipaddress, json, re, struct, sys

WORD, LAYERS, ACCESS = 2**64 - 1, ["mdm", "managed", "cli", "user", "project"], ["allow", "read-only", "deny"]
CODES = {byte & 0x1F | (byte & 0x40) >> 1: chr(byte) for byte in b"abcdefghijklmnopqrstuvwxyz0123456789-._"}

number = lambda data, at, size: int.from_bytes(data[at : at + size], "little")
fold = lambda a, b: a * b & WORD ^ a * b >> 64
pack = lambda text: sum((byte & 0x1F | (byte & 0x40) >> 1) << 6 * at for at, byte in enumerate(reversed(text.encode())))
unpack = lambda packed: "".join(CODES[packed >> 6 * at & 0x3F] for at in reversed(range(-(-packed.bit_length() // 6))))

def varint(data, at):
    more, after = varint(data, at + 1) if data[at] & 0x80 else (0, at + 1)
    return data[at] & 0x7F | more << 7, after

@functools.lru_cache(maxsize=None)
def expression(program):
    """A program as a regular expression, and how many bytes it fixes."""
    pattern, literals, at = b"", 0, 0
    while at < len(program):
        step, at = program[at : at + 1], at + 1
        if step == b"[":
            negated, pairs = program[at], program[at + 2 :][: 2 * program[at + 1]]
            step, at = b"".join(b"\\x%02x-\\x%02x" % pair for pair in struct.iter_unpack("BB", pairs)), at + 2 + len(pairs)
            pattern += (b"[^" if negated else b"[") + step + b"]"
        else:
            pattern += {b"*": b".*", b"?": b"."}.get(step, re.escape(step))
            literals += step not in (b"*", b"?")
    return re.compile(pattern, re.DOTALL), literals

class Blob:
    def __init__(self, data):
        magic, major, minor, count, length, signatures = struct.unpack_from("<8sHHIQQ", data)
        if magic != b"\x89NPB\r\n\x1a\n" or major != 1 or length != len(data) or count > 64 or signatures > min(65536, length - 64):
            raise ValueError(f"no policy blob, or cut, or of format {major}.{minor}")
        sections, floor = {}, 64 + 32 * count
        for kind, flags, start, size, zero in struct.iter_unpack("<IIQQQ", data[64:floor]):
            if start % 64 or start < floor or start + size > length - signatures or zero or flags > 1 or kind in sections or flags and kind > 18:
                raise ValueError(f"section {kind}: its entry, or a required one of format {major}.{minor}")
            sections[kind], floor = data[start : start + size], start + size
        contents, settings = [sections[kind] for kind in range(1, 17)], sections.get(17)
        _, trie, self.records, self.suffixes, rules, terms, ports, v4, v6, _, networks, self.globs, _, sources, _, _ = contents
        *self.key, self.homes, _, self.probe, self.terms_len, self.line_len, self.single = struct.unpack_from("<4QIIBBBB", trie)
        self.depths, self.groups = number(trie, 48, 16), trie[64:]
        self.rules, self.terms = list(struct.iter_unpack("<IIHBx", rules)), list(struct.iter_unpack("<BxHIIHxxQ", terms))
        self.ports, self.networks = list(struct.iter_unpack("<HH", ports)), list(struct.iter_unpack("<16sBBHII", networks))
        self.ranges = {4: [(number(v4, at, 4), number(v4, at + 4, 4)) for at in range(0, len(v4), 8)],
                       6: [(number(v6, at, 16), number(v6, at + 16, 4)) for at in range(0, len(v6), 20)]}
        (count, at), self.sources = varint(sources, 0), []
        for _ in range(count):
            layer, (size, start) = LAYERS[sources[at]], varint(sources, at + 1)
            at = start + size
            self.sources.append(f"{layer} {sources[start:at].decode()}")

        (count, at), self.settings = varint(settings or b"\0", 0), []
        for _ in range(count):
            pairs, at = self.pairs(settings, at)
            self.settings.append(pairs)

        denies = sections.get(18, b"\0")
        (count, at), self.denies = varint(denies, 0), []
        for _ in range(count):
            (paths, at), own = varint(denies, at), []
            for _ in range(paths):
                size, start = varint(denies, at)
                at = start + size
                own.append(denies[start:at].decode())
            self.denies.append(own)

    def pairs(self, data, at):
        (count, at), pairs = varint(data, at), {}
        for _ in range(count):
            size, start = varint(data, at)
            pairs[data[start : start + size].decode()], at = self.value(data, start + size)
        return pairs, at

    def value(self, data, at):
        kind, (count, start) = data[at], varint(data, at + 1)
        if kind == 2:
            return data[start : start + count].decode(), start + count
        if kind == 4:
            return self.pairs(data, at + 1)
        if kind == 3:
            values = []
            for _ in range(count):
                value, start = self.value(data, start)
                values.append(value)
            return values, start
        return (count == 1, count)[kind], start

    def hash(self, text, base):
        """Of a text whose last two labels begin at `base`."""
        (a, b, c, d), packed, end = self.key, pack(text[-32:]), len(text) - 32
        state = fold(fold(packed & WORD ^ a, packed >> 64 & WORD ^ b) ^ c, packed >> 128 ^ d)
        starts = [0] + [at for at in range(1, base + 1) if text[at - 1] == "." and at < end]
        while end > 0:
            start = starts.pop()
            for at in range(start, end, 8):
                word = text[at : min(at + 8, end)].encode()
                state = fold(state ^ number(word, 0, 8) ^ c, d ^ end - start)
            end = start
        return state

    def look(self, text, base, wanted):
        """The node of a text, as kinds, terms, line and slot, or None; and the depths."""
        state, depths = self.hash(text, base), 0
        home, line_at, name_at = state * self.homes >> 64, 1 + self.terms_len, 2 + self.terms_len + self.line_len
        for index in range(home, home + self.probe):
            group = self.groups[32 * index : 32 * index + 32]
            for place in (place for place in range(13) if group[place] == (state & 0xFF or 1)):
                first = number(group, 27, 4)
                record = self.records[first + group[13 + place] : first + group[14 + place]]
                suffix = self.suffixes[16 * record[name_at - 1] :][:16] if record[0] & wanted else b""
                if suffix and unpack(number(suffix[: 6 * suffix[15] // 8] + record[name_at:], 0, 200)) == text:
                    terms, line = number(record, 1, self.terms_len), number(record, line_at, self.line_len)
                    return (record[0] & 3, terms, line, 13 * index + place), record[0] >> 2
                depths |= record[0] >> 2
            if not group[31] & 1:
                break
        return None, depths

    def by_name(self, name):
        """Rank, terms, line and pattern of each rule for the name, those of the shortest text first."""
        starts = [0] + [at + 1 for at, byte in enumerate(name) if byte == "."]
        base, last = starts[-2:][0], starts[-1]
        node, depths = self.look(name[base:], 0, 2 if base else 1)
        found = [(last, self.look(name[last:], 0, 2)[0])] * (last > 0 and self.single) + [(base, node)]
        for more, start in enumerate(reversed(starts[:-2])):
            if self.depths >> more & 1 and depths >> min(more, 5) & 1:
                found.append((start, self.look(name[start:], base - start, 2 if start else 1)[0]))
        for start, (kind, terms, line, slot) in (one for one in found if one[1]):
            rules = [(slot, line, terms, kind)] if terms != 256**self.terms_len - 1 else self.rules[line:]
            for anchor, line, terms, kind in rules:
                if anchor != slot or kind not in (1, 2, 3):
                    break
                if kind & (2 if start else 1):
                    yield (65536 if kind == 1 else 0) + len(name) - start, terms, line, ["", "*.", "**."][kind - 1] + name[start:]

    def by_glob(self, name):
        for index in range(number(self.globs, 0, 4)):
            at = number(self.globs, 8 + 4 * index, 4) + 8
            rule, size, programs = struct.unpack_from("<IHH", self.globs, at - 8)
            text, at, (_, line, terms, _) = self.globs[at : at + size].decode(), at + size, self.rules[rule]
            matched = []
            for _ in range(programs):
                start, at = at + 2, at + 2 + number(self.globs, at, 2)
                matched += [literals for pattern, literals in [expression(self.globs[start:at])] if pattern.fullmatch(name.encode())]
            yield from ((literals, terms, line, text) for literals in matched[:1])

    def by_address(self, ip):
        *_, network = [2**32 - 1] + [network for first, network in self.ranges[ip.version] if first <= int(ip)]
        while network != 2**32 - 1:
            address, prefix, family, count, first, network = self.networks[network]
            shown = f"{ipaddress.ip_address(address[:4] if family == 4 else address)}" + ("" if prefix == ip.max_prefixlen else f"/{prefix}")
            yield from ((prefix + 1, terms, line, shown) for _, line, terms, _ in self.rules[first : first + count])

    def closest(self, profile, port, host):
        best, any_host = {}, [(0, terms, line, "*") for _, line, terms, kind in self.rules if kind == 0]
        if ":" in host or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", host):
            found = [*self.by_address(ipaddress.ip_address(host)), *any_host]
        else:
            number_like = re.search(r"(^|\.)([0-9]+|0x[0-9a-f]*)$", host)
            found = [] if number_like else [*self.by_name(host), *self.by_glob(host), *any_host]
        for rank, index, line, pattern in found:
            access, count, first, conditions, source, profiles = self.terms[index]
            ports = self.ports[first : first + count]
            counts = profiles >> profile & 1 and (not ports or any(low <= port <= high for low, high in ports))
            if counts and rank >= best.get(access == 2, (0,))[0]:
                best[access == 2] = rank, access, pattern, f"{self.sources[source]}:{line}", "conditions" if conditions else ""
        _, access, *said = best.get(True) or best.get(False) or (0, None)
        return "none" if access is None else "\t".join([ACCESS[access], *said])

if __name__ == "__main__":
    blob = Blob(open(sys.argv[1], "rb").read())
    if sys.argv[2:] == ["settings"]:
        said = [(profile, *pair) for profile, pairs in enumerate(blob.settings) for pair in pairs.items()]
        print("".join(f"{profile}\t{key}\t{json.dumps(value)}\n" for profile, key, value in said), end="")
        sys.exit()
    if sys.argv[2:] == ["sockets"]:
        print("".join(f"{profile}\t{json.dumps(path)}\n" for profile, own in enumerate(blob.denies) for path in own), end="")
        sys.exit()
    for profile, port, host in map(str.split, sys.stdin):
        print(blob.closest(int(profile), int(port), host))
