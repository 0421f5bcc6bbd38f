import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;

class Https {
    public static void main(String[] words) throws Exception {
        var client = HttpClient.newHttpClient();
        var get = HttpRequest.newBuilder(URI.create(words[0] + "/blob")).timeout(Duration.ofSeconds(30)).build();
        var read = client.send(get, BodyHandlers.ofByteArray());
        var digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(read.body()));
        System.out.println("GET " + read.statusCode() + " " + digest + " " + read.version().toString().replace("HTTP_1_1", "HTTP/1.1").replace("HTTP_2", "HTTP/2"));
        var body = HttpRequest.BodyPublishers.ofString("sent by java.net.http");
        var post = HttpRequest.newBuilder(URI.create(words[0] + "/echo")).timeout(Duration.ofSeconds(30)).POST(body).build();
        var written = client.send(post, BodyHandlers.ofString());
        System.out.println("POST " + written.statusCode() + " " + written.headers().firstValue("x-proxy-error").orElse("-"));
        System.out.println(written.body());
    }
}
