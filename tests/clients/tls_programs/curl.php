<?php
function exchange(string $url, array $options): array {
    $fields = [];
    $curl = curl_init($url);
    curl_setopt_array($curl, $options + [CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 30, CURLOPT_HEADERFUNCTION => function ($_, $line) use (&$fields) {
        [$name, $value] = explode(":", $line, 2) + [1 => ""];
        $fields[strtolower($name)] = trim($value);
        return strlen($line);
    }]);
    $body = curl_exec($curl);
    if ($body === false) {
        fwrite(STDERR, curl_error($curl) . "\n");
        exit(1);
    }
    return [curl_getinfo($curl, CURLINFO_RESPONSE_CODE), $fields, $body];
}

[$status, , $body] = exchange($argv[1] . "/blob", []);
echo "GET $status ", hash("sha256", $body), " -\n";
[$status, $fields, $body] = exchange($argv[1] . "/echo", [CURLOPT_POSTFIELDS => "sent by curl_exec"]);
echo "POST $status ", $fields["x-proxy-error"] ?? "-", "\n$body\n";
