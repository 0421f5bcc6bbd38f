<?php
// Streams leave the proxy to the program.
$proxy = str_replace("http://", "tcp://", rtrim(getenv("HTTPS_PROXY") ?: getenv("https_proxy"), "/"));
function exchange(string $url, array $options): array {
    global $proxy;
    $body = file_get_contents($url, false, stream_context_create(["http" => $options + ["proxy" => $proxy, "timeout" => 30, "ignore_errors" => true]]));
    if ($body === false) {
        exit(1);
    }
    $fields = [];
    foreach ($http_response_header as $line) {
        [$name, $value] = explode(":", $line, 2) + [1 => ""];
        $fields[strtolower($name)] = trim($value);
    }
    // After a tunnel's own status line comes the one of what is in it.
    $status = array_values(preg_grep("#^HTTP/#", $http_response_header));
    return [explode(" ", end($status))[1], $fields, $body];
}

[$status, , $body] = exchange($argv[1] . "/blob", []);
echo "GET $status ", hash("sha256", $body), " -\n";
[$status, $fields, $body] = exchange($argv[1] . "/echo", ["method" => "POST", "header" => "Content-Type: text/plain", "content" => "sent by a stream"]);
echo "POST $status ", $fields["x-proxy-error"] ?? "-", "\n$body\n";
